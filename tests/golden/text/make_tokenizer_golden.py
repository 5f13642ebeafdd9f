#!/usr/bin/env python3
"""Makes vocab.bin and tokenizer_golden.bin: strings on which two references agree, and their ids.

References: `tokenizers` with the file's vocabulary and merges and SmolLM2's pre-tokenizer, and
llama-cpp-python, vocabulary only. They live in two virtual environments, so this script runs itself
in the second one with --llama.

    ORACLE=/root/.cache/millrace/venv-oracle/bin/python
    $ORACLE tests/golden/text/make_tokenizer_golden.py MODEL.gguf --llama-python /tmp/peers/venv/bin/python

vocab.bin: lines "kind<TAB>token" of the tokens that no merge makes, an empty line, "bos eos unknown add_bos",
then per merge two u16 ids; merge i makes token (number of lines) + i, checked here.
tokenizer_golden.bin: records u8 parse_special, u32 bytes, text, u32 number of ids, u16 ids. Little endian.
"""
import argparse, hashlib, json, os, random, struct, subprocess, sys, unicodedata

HERE = os.path.dirname(os.path.abspath(__file__))
COUNT = 10_000

WORDS = """the of and to in is that for it as was with be by on not he his but at are this have from or had an they
which one you were her all she there would their we him been has when who will more no if out so said what up its about
into than them can only other new some could time these two may then do first any my now such like our over man me even
most made after also did many before must through back years where much your way well down should because each just those
people how too little state good very make world still own see men work long get here between both life being under never
day same another know while last might us great old year off come since against go came right used take three""".split()

PROSE = ["Hello, world!", "What does HTTP stand for?", "I'm sure they've seen it; we'll see if you'd mind, it's John's.",
  "I'M SURE THEY'VE", "The quick brown fox jumps over the lazy dog.", "def f(x):\n    return x ** 2  # square\n",
  "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\n}\n", "SELECT * FROM t WHERE id = 42 AND name LIKE '%x%';",
  "https://example.com/a/b?c=1&d=2#frag", "{\"key\": [1, 2.5, null, true], \"s\": \"a\\nb\"}", "1234567890", "3.14159 -2e10 0x1F",
  "你好，世界。今天天气很好！", "こんにちは世界、カタカナとひらがな", "안녕하세요 세계", "Привет, мир! Как дела?", "שלום עולם", "مرحبا بالعالم ١٢٣",
  "नमस्ते दुनिया १२३", "สวัสดีชาวโลก", "Γειά σου Κόσμε", "Ünïcödé ñandú façade Straße ĳsberg ǅ", "e\u0301 a\u0300 o\u0308 combining", "👋🌍 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 1️⃣",
  "½ ¾ ² ³ ¹ Ⅷ ⅷ ① ⑩ 〇 一二三 ٣ ५ 𝟜 𝟘", "\u00a0nbsp\u2003em\u3000ideographic", "a\u180eb mongolian vowel separator", "zero\u200bwidth\ufeffbom\u200d",
  "tab\tseparated\tvalues", "line1\r\nline2\r\n\r\nline4\n\n\n  indented\n", "   leading and trailing   ", "a  b   c    d     e", "\n\n \n  \n\t\n",
  "...!!!???---===___***", "'s 't 're 've 'm 'll 'd 'S 'T 'RE ''s s's", "don't can't won't it's I'll we'd", "\u2019s \u2018quoted\u2019 \u201cdouble\u201d", "x'\u017f 'ſ",
  "\x00\x01\x02 control \x7f \x1b[31mred", "\ud7ff\ue000\uffff\U0001ffff\U0010ffff", "\u202eright to left override\u202c", "<html><body class=\"x\">&amp;</body></html>"]


def specials(tokens, kinds):
    return [t for t, k in zip(tokens, kinds) if k == 3]


def make_strings(special):
    rng = random.Random(20260721)
    out = []  # (text, parse_special)
    def add(text, parse=False):
        out.append((text, parse))
    for p in PROSE:
        add(p); add(" " + p); add(p + "\n"); add(p * 3); add(p, True)
    # Every code point boundary and a sweep of all planes.
    for cp in list(range(0, 0x3000, 3)) + list(range(0x3000, 0x110000, 997)):
        if 0xD800 <= cp < 0xE000: continue
        c = chr(cp)
        add(c if rng.random() < .3 else "a" + c + "b 1" + c + " " + c)
    # Every special, in text, with and without parsing, cut short, doubled, nested.
    for s in special:
        for t in (s, "x" + s + "y", " " + s + " ", s + s, s[:-1], s[1:], s[:-1] + s, s.upper(), "\n" + s + "\n", s[0] + s, s.replace("_", " ")):
            add(t, True); add(t, False)
    for _ in range(400):
        t = "".join(rng.choice(special) if rng.random() < .4 else rng.choice(WORDS + [" ", "\n", "<|", "|>", "<", ">"]) for _ in range(rng.randint(1, 12)))
        add(t, rng.random() < .7)
    # Digits and white space.
    for n in list(range(0, 70)) + [100, 255, 256, 1000]:
        add("".join(rng.choice("0123456789") for _ in range(n))); add(" " * n); add("\n" * n + "x"); add("a" * n); add("\t" * n + " " * (n % 5) + "7")
    ws = [" ", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x0b", "\x85", "\u180e", "\r"]
    for _ in range(600):
        add("".join(rng.choice(ws) if rng.random() < .6 else rng.choice(["a", "Z", "5", ".", "'s", "é", "中", "½"]) for _ in range(rng.randint(1, 30))))
    # Without a space: 10 kB of several kinds.
    pools = ["abcdefghijklmnopqrstuvwxyz", "aaaaab", "0123456789", "_-=+", "的一是不了人我在有他这", "αβγδε", "éèêë", "👍🎉🔥", "ab1_", "\u0301a"]
    for pool in pools:
        add("".join(rng.choice(pool) for _ in range(10_000 // len(pool[0].encode()) // 4)))
    add("a" * 10_000); add("etaoin" * 1_700)
    # Ordinary prose of several shapes.
    while len(out) < 6_900:
        n = rng.randint(1, 40)
        words = [rng.choice(WORDS) for _ in range(n)]
        for i in range(n):
            r = rng.random()
            if r < .1: words[i] = words[i].capitalize()
            elif r < .14: words[i] = words[i].upper()
            elif r < .18: words[i] += rng.choice([",", ".", "!", "?", ";", "'s", ")", "\"", "...", ":\n"])
            elif r < .22: words[i] = str(rng.randint(0, 10 ** rng.randint(1, 7)))
            elif r < .25: words[i] = rng.choice("([{\"'<#@$") + words[i]
        add(rng.choice([" ", " ", " ", "  ", "\n", "_", "-", ""]).join(words))
    # Random characters from everywhere that the file has bytes for, and bits of the special spellings.
    ranges = [(0x20, 0x7f)] * 6 + [(0xa0, 0x250), (0x300, 0x370), (0x370, 0x400), (0x400, 0x530), (0x590, 0x700), (0x900, 0xe00), (0x1e00, 0x2000),
              (0x2000, 0x2c00), (0x3040, 0x3100), (0x4e00, 0x9fff), (0xac00, 0xd7a4), (0xe000, 0xe100), (0xff00, 0xfff0), (0x10000, 0x10200), (0x1d400, 0x1d800),
              (0x1f300, 0x1f700), (0x20000, 0x20100), (0xe0000, 0xe0080), (0x100000, 0x100080)]
    while len(out) < 13_500:
        n = rng.randint(1, 24)
        t = ""
        while len(t) < n:
            lo, hi = rng.choice(ranges)
            t += "".join(chr(rng.randrange(lo, hi)) for _ in range(rng.randint(1, 6)))
            if rng.random() < .15: t += rng.choice(["<|im_start|>", "<|im_end|>", "<|", " ", "\n", "'s"])
        add(t, rng.random() < .3)
    seen = set()
    return [x for x in out if not (x in seen or seen.add(x))]


def llama_side(model):
    from llama_cpp import Llama
    llm = Llama(model, vocab_only=True, verbose=False)
    strings = json.load(sys.stdin)
    json.dump([llm.tokenize(t.encode("utf-8"), add_bos=False, special=p) for t, p in strings], sys.stdout)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("model"); ap.add_argument("--llama", action="store_true"); ap.add_argument("--llama-python")
    args = ap.parse_args()
    if args.llama:
        return llama_side(args.model)
    import gguf
    from tokenizers import Tokenizer, AddedToken, models, pre_tokenizers, decoders
    fields = gguf.GGUFReader(args.model).fields
    get = lambda name: fields["tokenizer.ggml." + name].contents()
    tokens, kinds, merges = get("tokens"), get("token_type"), get("merges")
    assert get("pre") == "smollm" and get("model") == "gpt2"

    def reference(encode_special):
        tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ", 1)) for m in merges]))
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
        tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials(tokens, kinds)])
        tok.encode_special_tokens = not encode_special
        return tok
    by_parse = {p: reference(p) for p in (False, True)}
    strings = make_strings(specials(tokens, kinds))
    ours = [by_parse[p].encode(t, add_special_tokens=False).ids for t, p in strings]
    run = subprocess.run([args.llama_python, __file__, args.model, "--llama"], input=json.dumps(strings), stdout=subprocess.PIPE, text=True, check=True)
    theirs = json.loads(run.stdout)
    agree = [(t, p, a) for (t, p), a, b in zip(strings, ours, theirs) if a == b]
    differ = [(t, p, a, b) for (t, p), a, b in zip(strings, ours, theirs) if a != b]
    report = classify(differ, by_parse, strings)
    print(f"{len(strings)} strings, {len(agree)} agree, {len(differ)} differ:", report)
    assert len(agree) >= COUNT, len(agree)
    # Whatever is special or long is kept, then the rest in order.
    rng = random.Random(1)
    keep = sorted(rng.sample(range(len(agree)), COUNT))
    body = b"".join(struct.pack("<BI", p, len(t.encode())) + t.encode() + struct.pack("<I", len(ids)) + struct.pack(f"<{len(ids)}H", *ids) for t, p, ids in (agree[i] for i in keep))
    base = len(tokens) - len(merges)
    index = {t: i for i, t in enumerate(tokens)}
    pairs = [m.split(" ", 1) for m in merges]
    assert all(tokens[base + i] == "".join(p) for i, p in enumerate(pairs)) and set(kinds[base:]) == {1}
    assert all("\n" not in t for t in tokens)
    vocab = "".join(f"{k}\t{t}\n" for t, k in zip(tokens[:base], kinds))
    vocab += f"\n{get('bos_token_id')} {get('eos_token_id')} {get('unknown_token_id')} {int(get('add_bos_token'))}\n"
    write("vocab.bin", vocab.encode() + b"".join(struct.pack("<2H", index[l], index[r]) for l, r in pairs))
    write("tokenizer_golden.bin", body)


def classify(differ, by_parse, strings):
    counts, examples = {}, {}
    for t, p, a, b in differ:
        new = [c for c in t if unicodedata.category(c) == "Cn"]
        if any(c in "\x1c\x1d\x1e\x1f\x85\u180e\u200b" for c in t): why = "white space (U+001C..1F, U+0085, U+180E)"
        elif "'" in t and any(x in t for x in ("'S", "'T", "'R", "'V", "'M", "'L", "'D")): why = "contraction case"
        elif new: why = "unassigned code point"
        elif any(unicodedata.category(c) in ("No", "Nl") for c in t): why = "number of category No or Nl"
        else: why = "other: " + ",".join(sorted({unicodedata.category(c) for c in t if ord(c) > 127}))
        counts[why] = counts.get(why, 0) + 1
        examples.setdefault(why, (t[:40], p, a[:12], b[:12]))
    for why, ex in examples.items():
        print("  ", counts[why], why, ascii(ex))
    return counts


def write(name, data):
    assert len(data) < 900_000, (name, len(data))
    with open(os.path.join(HERE, name), "wb") as f:
        f.write(data)
    print(name, len(data), hashlib.sha256(data).hexdigest()[:16])


main()
