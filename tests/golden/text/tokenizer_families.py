#!/usr/bin/env python3
"""Makes tokenizer_FAMILY.json and tokenizer_FAMILY.ids: small vocabularies in each family's configuration, and what two
references make of 14,000 strings.

    ORACLE=/root/.cache/millrace/venv-oracle/bin/python        # tokenizers, sentencepiece, gguf
    $ORACLE tests/golden/text/tokenizer_families.py --llama-python /tmp/peers/venv/bin/python [--train] [FAMILY ...]
    $ORACLE tests/golden/text/tokenizer_families.py --llama-python /tmp/peers/venv/bin/python --mistral tokenizer.model.v1
    $ORACLE tests/golden/text/tokenizer_families.py --show FAMILY NUMBER       # one string and its ids

References: `tokenizers` with the tokenizer.json, and llama-cpp-python with a GGUF file (vocabulary only) written from
the same tokens as the converters write it. "mistral" is a real vocabulary (mistral-common 1.13.1, Apache-2.0): its
references are `sentencepiece` and llama-cpp-python; --mistral names its file tokenizer.model.v1. tokenizer_mistral.vocab
has a line a piece from id 259 on (the bytes come before), one of score -1e9 with a tab before it; others have 259 - id.

The strings are not stored: strings() below and text/test_strings.cc make them from tokenizer_strings.json and the
added tokens. tokenizer_FAMILY.ids: a u32 for each string, little endian: 0 where the references differ, else the low
half of FNV-1a over the ids as u32 (0 written as 1).
"""
import argparse, glob, json, os, random, struct, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "../../.."))
COUNT = 14_000
MASK = (1 << 64) - 1


class Random:  # splitmix64
    def __init__(self, seed):
        self.state = seed & MASK

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n


def scalar(value):
    """A code point of the whole range without the surrogates."""
    value %= 0x110000 - 0x800
    return chr(value if value < 0xD800 else value + 0x800)


def upper(text):  # ASCII only: the same in every language
    return "".join(c.upper() if c < "\x80" else c for c in text)


def strings(parts, added):
    """(text, parse_special) of each number. The same in text/test_strings.cc."""
    prose, words, spaces, marks, pools, ranges = (parts[k] for k in ("prose", "words", "spaces", "marks", "pools", "ranges"))

    def pick(rng, items):
        return items[rng.below(len(items))]

    def from_ranges(rng):
        low, high = pick(rng, ranges)
        return "".join(scalar(low + rng.below(high - low)) for _ in range(1 + rng.below(6)))

    def sentence(rng):
        out = ""
        for _ in range(1 + rng.below(30)):
            word = pick(rng, words)
            what = rng.below(20)
            if what == 0: word = upper(word[:1]) + word[1:]
            if what == 1: word = upper(word)
            if what == 2: word += pick(rng, marks)
            if what == 3: word = pick(rng, marks) + word
            if what == 4: word = str(rng.below(10 ** (1 + rng.below(7))))
            out += word + (" " if rng.below(8) else pick(rng, spaces))
        return out

    def one(i):
        rng = Random(i)
        kind = i % 10
        if i < len(pools) * 10 and kind == 9:  # 10 kB without a space
            pool, out = pools[i // 10], ""
            while len(out.encode()) < 10_000: out += pick(rng, pool)
            return out, False
        if kind == 0:
            p = prose[i // 10 % len(prose)]
            out = [p, " " + p, p + "\n", p + p, "\r\n" + p, upper(p)][rng.below(6)]
        elif kind == 1:
            c = scalar(i // 10 * 797 + rng.below(797))  # a sweep over all planes
            d = scalar(rng.below(0x3000))
            out = ["a" + c + "b 1" + c + " " + c, c + d, "x " + d + c + c][rng.below(3)]
        elif kind <= 4:
            out = sentence(rng)
        elif kind == 5:
            out = "".join(pick(rng, spaces) if rng.below(5) < 3 else pick(rng, marks) for _ in range(1 + rng.below(24)))
        elif kind == 6:
            out = "".join(pick(rng, "0123456789") if rng.below(4) else pick(rng, marks) for _ in range(1 + rng.below(40)))
        elif kind == 7:
            out = "".join(from_ranges(rng) if rng.below(6) else pick(rng, spaces) for _ in range(1 + rng.below(5)))
        else:  # added tokens in text, cut short, doubled, with spaces
            out = ""
            for _ in range(1 + rng.below(8)):
                token = pick(rng, added)
                what = rng.below(12)
                if what < 4: out += token
                elif what == 4: out += token[:-1]
                elif what == 5: out += token[1:]
                elif what == 6: out += token + token
                elif what == 7: out += " " + token + " "
                elif what == 8: out += "\n" + token + "\n"
                elif what == 9: out += pick(rng, words) + token
                elif what == 10: out += pick(rng, words) + pick(rng, spaces)
                else: out += from_ranges(rng)
        return out, rng.below(4) < (3 if kind >= 8 else 1)

    return [one(i) for i in range(COUNT)]


# ---- families -------------------------------------------------------------------------------------------------------
CONTRACTION, REST = "(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + REST
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTION +
         r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTION +
         r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + REST)
split = lambda regex: {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
gpt2_split = {**bytes_only, "use_regex": True}
byte_decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
seq = lambda name, *steps: {"type": "Sequence", name: list(steps)}
special = lambda text, **rules: {"content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **rules}
plain = lambda text, **rules: special(text, special=False, **rules)
IM = [special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")]

BYTE_LEVEL = {  # name: pre of GGUF, normalizer, pre-tokenizer, model options, added tokens
    "llama3": ("llama-bpe", None, seq("pretokenizers", split(LLAMA3), bytes_only), {"ignore_merges": True},
               [special(f"<|{t}|>") for t in ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id", "reserved_special_token_0")]),
    "qwen2": ("qwen2", {"type": "NFC"}, seq("pretokenizers", split(QWEN2), bytes_only), {}, IM + [plain("<tool_call>"), plain("</tool_call>")]),
    "gpt2": ("gpt-2", None, gpt2_split, {}, [special("<|endoftext|>")]),
    "smollm": ("smollm", None, seq("pretokenizers", {"type": "Digits", "individual_digits": True}, gpt2_split), {}, IM + [special("<repo_name>")]),
    "phi4": ("dbrx", None, seq("pretokenizers", split(LLAMA3), bytes_only), {}, [special("<|endoftext|>"), special("<|im_start|>"), special("<|im_sep|>"), special("<|im_end|>")]),
    "phi4mini": ("gpt-4o", None, seq("pretokenizers", split(O200K), bytes_only), {}, [special("<|endoftext|>"), special("<|user|>"), special("<|end|>"), plain("<|tool|>")]),
}
legacy = seq("normalizers", {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
replace_only = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
spm_decoder = lambda *more: seq("decoders", {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, *more)
strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
PIECES = {  # name: add_space_prefix, normalizer, pre-tokenizer, decoder, added tokens behind those of the model, general.name, user-defined pieces
    "llama2": (True, legacy, None, spm_decoder(strip), [], "llama", []),
    "phi3": (True, legacy, None, spm_decoder(strip), [special("<|endoftext|>"), special("<|user|>", rstrip=True), special("<|assistant|>", rstrip=True), special("<|end|>", rstrip=True)], "phi-3", []),
    "gemma": (False, replace_only, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}, spm_decoder(),
              [special("<start_of_turn>"), special("<end_of_turn>")], "gemma", ["<table>", "</td>", "\n\n", "\n\n\n"]),
    "mistral03": (True, None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}, spm_decoder(strip), [special("[INST]"), special("[/INST]")], "mistral", []),
}


def corpus():
    parts = json.load(open(os.path.join(HERE, "tokenizer_strings.json"), encoding="utf-8"))
    texts = parts["prose"] * 6 + [" ".join(random.Random(i).choices(parts["words"], k=30)) for i in range(400)]
    for pattern in ("*.md", "docs/*.md", "base/*.cc", "server/*.cc"):
        for path in sorted(glob.glob(os.path.join(ROOT, pattern))):
            texts += open(path, encoding="utf-8").read().split("\n")
    return [t for t in texts if t]


def frame(model, added, normalizer, pre, post, decoder):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre,
            "post_processor": post, "decoder": decoder, "model": model}


def bos_template(text, i):
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {text: {"id": text, "ids": [i], "tokens": [text]}}}


def train_bytes(name):
    from tokenizers import Tokenizer, models, trainers, pre_tokenizers
    pre_name, normalizer, pre, options, added = BYTE_LEVEL[name]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {}, "merges": []}
    blank = Tokenizer.from_str(json.dumps(frame(model, [], normalizer, pre, None, byte_decoder)))
    blank.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=1400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    trained = json.loads(blank.to_str())["model"]
    size = len(trained["vocab"])
    ids = [{"id": size + i, **a} for i, a in enumerate(added)]
    post = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    if name == "llama3":
        post = seq("processors", post, bos_template("<|begin_of_text|>", size))
    if name in ("gpt2", "phi4"):  # the older spelling of merges
        trained["merges"] = [" ".join(m) for m in trained["merges"]]
    trained.update(options)
    return frame(trained, ids, normalizer, pre, post, byte_decoder)


def train_pieces(name):
    import sentencepiece as spm
    prefix, normalizer, pre, decoder, more, _, user = PIECES[name]
    with tempfile.TemporaryDirectory() as tmp:
        spm.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_prefix=tmp + "/m", model_type="bpe", vocab_size=1500, byte_fallback=True, split_digits=True,
                                       normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix, allow_whitespace_only_pieces=True,
                                       user_defined_symbols=user, character_coverage=0.9995, minloglevel=2)
        return pieces_json(spm.SentencePieceProcessor(model_file=tmp + "/m.model"), name)


def pieces_json(sp, name):
    """As the converters do: each way to cut a piece into two is a merge, the best score first."""
    prefix, normalizer, pre, decoder, more, _, user = PIECES[name]
    n = sp.get_piece_size()
    vocab = {sp.id_to_piece(i): i for i in range(n)}
    assert len(vocab) == n
    merges = []
    for piece, i in vocab.items():
        if sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i): continue
        merges += [(-sp.get_score(i), vocab[piece[:k]], vocab[piece[k:]], piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in vocab and piece[k:] in vocab]
    added = [{"id": i, **special(sp.id_to_piece(i))} for i in range(3)] + [{"id": vocab[t], **plain(t)} for t in user] + [{"id": n + i, **a} for i, a in enumerate(more)]
    for a in added: vocab.setdefault(a["content"], a["id"])
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
             "vocab": vocab, "merges": [[l, r] for _, _, _, l, r in sorted(merges)]}
    return frame(model, added, normalizer, pre, bos_template("<s>", 1), decoder)


# ---- references -----------------------------------------------------------------------------------------------------
def write_gguf(path, name, spec):
    """The same vocabulary as a GGUF file. Scores of pieces: minus the id, which is the order that SentencePiece gives them."""
    import gguf
    w = gguf.GGUFWriter(path, "llama")
    vocab = dict(spec["model"]["vocab"])
    kinds = {i: 1 for i in vocab.values()}
    for a in spec["added_tokens"]:
        vocab.setdefault(a["content"], a["id"])
        kinds[a["id"]] = 3 if a["special"] else 4
    tokens = [t for t, _ in sorted(vocab.items(), key=lambda x: x[1])]
    if name in BYTE_LEVEL:
        w.add_name(name)
        w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre(BYTE_LEVEL[name][0])
        w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]])
        w.add_bos_token_id(spec["added_tokens"][0]["id"]); w.add_eos_token_id(spec["added_tokens"][0]["id"])
    else:
        w.add_name(PIECES[name][5])
        w.add_tokenizer_model("llama"); w.add_tokenizer_pre("default")
        w.add_token_scores(spec.get("scores") or [float(-i) for i in range(len(tokens))])
        w.add_add_space_prefix(PIECES[name][0])
        w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0)
        for t, i in vocab.items():
            if len(t) == 6 and t.startswith("<0x"): kinds[i] = 6
        kinds[0] = 2
    w.add_token_list(tokens); w.add_token_types([kinds[i] for i in range(len(tokens))])
    w.add_add_bos_token(False)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def llama_side(path):
    from llama_cpp import Llama
    llm = Llama(path, vocab_only=True, verbose=False)
    json.dump([llm.tokenize(t.encode("utf-8"), add_bos=False, special=p) for t, p in json.load(sys.stdin)], sys.stdout)


def llama_ids(args, name, spec, texts):
    with tempfile.TemporaryDirectory() as tmp:
        write_gguf(tmp + "/v.gguf", name, spec)
        run = subprocess.run([args.llama_python, __file__, "--llama", tmp + "/v.gguf"], input=json.dumps(texts), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)


def tokenizers_ids(spec, texts):
    from tokenizers import Tokenizer
    out = []
    by_parse = {}
    for parse in (False, True):
        by_parse[parse] = Tokenizer.from_str(json.dumps(spec))
        by_parse[parse].encode_special_tokens = not parse
    return [by_parse[p].encode(t, add_special_tokens=False).ids for t, p in texts]


def fnv(ids):
    h = 0xCBF29CE484222325
    for b in struct.pack(f"<{len(ids)}I", *ids):
        h = ((h ^ b) * 0x100000001B3) & MASK
    return (h & 0xFFFFFFFF) or 1


def compact(spec):
    text = json.dumps(spec, ensure_ascii=False, separators=(",", ":"))
    return text.replace('"model":', '\n"model":').replace('"vocab":', '\n"vocab":').replace('"merges":', '\n"merges":') + "\n"


def one_family(name, args, parts):
    path = os.path.join(HERE, f"tokenizer_{name}.json")
    if args.train or not os.path.exists(path):
        spec = train_bytes(name) if name in BYTE_LEVEL else train_pieces(name)
        write(f"tokenizer_{name}.json", compact(spec).encode())
    spec = json.load(open(path, encoding="utf-8"))
    texts = strings(parts, [a["content"] for a in spec["added_tokens"]])
    a, b = tokenizers_ids(spec, texts), llama_ids(args, name, spec, texts)
    finish(name, texts, a, b)


def mistral(args, parts):
    import sentencepiece as spm
    sp = spm.SentencePieceProcessor(model_file=args.mistral)
    n, low = sp.get_piece_size(), -1e9
    pieces, scores = [sp.id_to_piece(i) for i in range(n)], [sp.get_score(i) for i in range(n)]
    assert all(scores[i] in (259.0 - i, low) for i in range(259, n)) and all(sp.is_byte(i) for i in range(3, 259)) and not any("\t" in p or "\n" in p for p in pieces)
    write("tokenizer_mistral.vocab", "".join(("\t" if scores[i] == low else "") + pieces[i] + "\n" for i in range(259, n)).encode())
    texts = strings(parts, pieces[:3])
    spec = {"model": {"vocab": {p: i for i, p in enumerate(pieces)}}, "scores": scores, "added_tokens": [{"id": i, **special(pieces[i])} for i in range(3)]}
    a = [sp.encode(t) for t, _ in texts]
    finish("mistral", texts, a, llama_ids(args, "mistral03", spec, texts))


def finish(name, texts, a, b):
    differ = [i for i in range(COUNT) if a[i] != b[i]]
    print(f"{name}: {COUNT - len(differ)} of {COUNT} agree")
    for i in differ[:: max(1, len(differ) // 6)][:6]:
        k = next((k for k, (x, y) in enumerate(zip(a[i], b[i])) if x != y), -1)
        print("   differ:", i, ascii(texts[i])[:100], a[i][max(0, k - 2):k + 4], b[i][max(0, k - 2):k + 4])
    assert COUNT - len(differ) >= 10_000
    write(f"tokenizer_{name}.ids", struct.pack(f"<{COUNT}I", *(fnv(x) if x == y else 0 for x, y in zip(a, b))))


def write(name, data):
    assert len(data) < 300_000, (name, len(data))
    with open(os.path.join(HERE, name), "wb") as f:
        f.write(data)
    print(" ", name, len(data))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("families", nargs="*"); ap.add_argument("--train", action="store_true"); ap.add_argument("--llama-python")
    ap.add_argument("--llama"); ap.add_argument("--show", nargs=2); ap.add_argument("--mistral")
    args = ap.parse_args()
    if args.llama: return llama_side(args.llama)
    parts = json.load(open(os.path.join(HERE, "tokenizer_strings.json"), encoding="utf-8"))
    if args.show:
        spec = json.load(open(os.path.join(HERE, f"tokenizer_{args.show[0]}.json"), encoding="utf-8"))
        text = strings(parts, [a["content"] for a in spec["added_tokens"]])[int(args.show[1])]
        return print(ascii(text), tokenizers_ids(spec, [text])[0])
    if args.mistral: return mistral(args, parts)
    for name in args.families or [*BYTE_LEVEL, *PIECES]:
        one_family(name, args, parts)


main()
