#!/usr/bin/env python3
"""Makes tokenizer_steps.json: each step and option of a tokenizer.json that we take, and what `tokenizers` makes of it.

    ORACLE=/root/.cache/millrace/venv-oracle/bin/python
    $ORACLE tests/golden/text/tokenizer_steps.py

A case is a tokenizer_BASE.json with members replaced ("model" is merged), strings, and for each its ids (with special
tokens put around) and the text of those ids with and without special tokens. One reference only: for most of these
steps llama.cpp has no counterpart.
"""
import json, os
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
STRINGS = ["", " ", "Hello world", "  two  spaces ", "e\u0301te\u0301 \u00e9t\u00e9 a\u0323\u0307 a\u0307\u0323 \u212b \u2126 \uf900 \u1100\u1161\u11a8 \uac00\u11a8", "\ufb01 \u2460 \u00bd \uff21 \u3300 \u1e9b\u0323 \u0130I\u0131 \u03a3\u03c2 \u00df \u1e9e",
           "\u0300\u0323\u0300 x\u0300\u0323\u0345\u0301 q\u0307\u0323", "call 123 4567 a1b22", "line\nline\r\n\r\n  end\t", "<s> and </s>", "<a> <ab> <a b>", "x<a>y", " <lst> a <rst>  b", "<lst><rst> <lst> ", "a<rst>\n\n <lst>b",
           "word wordy sword word", "\u00e9word word_ word1 (word)", "TOKEN token Token <LOW> <low>", "I'm it's WE'LL don't", "\u4f60\u597d\uff0c\u4e16\u754c", "\U0001f469\u200d\U0001f469 \U00020000 \ue000", "\u2581 \u2581\u2581x", "e eee ee eeee", "a b  c", "\u00a0\u3000\u2003tabs\u2028"]
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = {**BYTES, "use_regex": True}
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
seq = lambda name, *steps: {"type": "Sequence", name: list(steps)}
pre = lambda *steps: {"pre_tokenizer": seq("pretokenizers", *steps)}
split = lambda pattern, behavior="Isolated", invert=False: {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
norm = lambda *steps: {"normalizer": seq("normalizers", *steps)}
T = lambda t, **k: {"type": t, **k}
token = lambda i, text, **k: {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False, **k}
meta = lambda scheme, cut: T("Metaspace", replacement="\u2581", prepend_scheme=scheme, split=cut)
replace = T("Replace", pattern={"String": "\u2581"}, content=" ")
strip = lambda a, b: T("Strip", content=" ", start=a, stop=b)
spm = {"normalizer": None, "pre_tokenizer": meta("always", True)}

BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
CASES = [("gpt2 " + n, "gpt2", norm(T(n))) for n in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")]
CASES += [
    ("strip both", "gpt2", norm(T("Strip", strip_left=True, strip_right=True))), ("strip left", "gpt2", norm(T("Strip", strip_left=True, strip_right=False))),
    ("nested", "gpt2", norm(T("NFKD"), seq("normalizers", T("Lowercase"), T("Replace", pattern={"String": "e"}, content="<a>")), T("Prepend", prepend="x "))),
    ("digits", "gpt2", pre(T("Digits", individual_digits=False), GPT2)), ("each digit", "gpt2", pre(T("Digits", individual_digits=True), BYTES)),
    ("prefix space", "gpt2", {"pre_tokenizer": {**GPT2, "add_prefix_space": True}}), ("prefix space after digits", "gpt2", pre(T("Digits", individual_digits=True), {**BYTES, "add_prefix_space": True})),
    ("cl100k", "gpt2", pre(split({"Regex": CL100K}), BYTES)), ("cl100k removed inverted", "gpt2", pre(split({"Regex": CL100K}, "Removed", True), BYTES)), ("raw line ends", "gpt2", pre(split({"Regex": LLAMA3.replace(r"\r\n", "\r\n")}), BYTES)),
    ("llama3 contiguous", "gpt2", pre(split({"Regex": LLAMA3}, "Contiguous"), BYTES)),
    *[(f"split {b} {i}", "gpt2", pre(split({"String": "e"}, b, i), BYTES)) for b in BEHAVIORS for i in (False, True)],
    ("two ends", "gpt2", {"post_processor": seq("processors", T("ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True), T("TemplateProcessing",
        single=[{"SpecialToken": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "A", "type_id": 0}}],
        pair=[{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], special_tokens={"A": {"id": "A", "ids": [1400], "tokens": ["<|endoftext|>"]}, "B": {"id": "B", "ids": [5, 6], "tokens": ["&", "'"]}}))}),
    ("added rules", "gpt2", {"added_tokens": [token(1400, "<s>", special=True), token(1401, "</s>", special=True), token(1402, "<a"), token(1403, "<a>"), token(1404, "<ab>"), token(1405, "<lst>", lstrip=True), token(1406, "<rst>", rstrip=True),
        token(1407, "word", single_word=True), token(1408, "\u4f60"), token(1409, "two  "), token(1410, "<low>", lstrip=True, rstrip=True, special=True)]}),
    ("normalized added", "gpt2", {**norm(T("Lowercase")), "added_tokens": [token(1400, "TOKEN", normalized=True), token(1401, "<LOW>", normalized=True, special=True), token(1402, "<low>", special=True), token(1403, "\u00c9word", normalized=True), token(1404, "Hello")]}),
    ("ignore merges", "gpt2", {"model": {"ignore_merges": True}, **pre(split({"String": " "}, "MergedWithNext"), BYTES)}),
    *[(f"metaspace {s} {c}", "llama2", {"normalizer": None, "pre_tokenizer": meta(s, c), "decoder": T("Metaspace", replacement="\u2581", prepend_scheme=s, split=c)}) for s in ("always", "first", "never") for c in (True, False)],
    ("old metaspace", "llama2", {"normalizer": None, "pre_tokenizer": T("Metaspace", replacement="\u2581", add_prefix_space=True), "decoder": T("Metaspace", replacement="\u2581", add_prefix_space=True)}),
    ("metaspace digits", "llama2", {"normalizer": None, **pre(meta("first", True), T("Digits", individual_digits=True)), "decoder": T("Metaspace", replacement="\u2581", prepend_scheme="first", split=True)}),
    ("no strip", "llama2", {"decoder": seq("decoders", replace, T("ByteFallback"), T("Fuse"))}), ("strip each", "llama2", {"decoder": seq("decoders", replace, T("ByteFallback"), strip(1, 0), T("Fuse"))}),
    ("strip none", "llama2", {"decoder": seq("decoders", replace, T("ByteFallback"), T("Fuse"), strip(0, 0))}),
    ("unknown fused", "llama2", {"model": {"byte_fallback": False}}), ("unknown each", "llama2", {"model": {"byte_fallback": False, "fuse_unk": False}}), ("unknown left out", "llama2", {"model": {"byte_fallback": False, "unk_token": None}}),
    ("pieces ignore merges", "llama2", {"model": {"ignore_merges": True}, **spm}), ("pieces NFKC", "llama2", {"normalizer": seq("normalizers", T("NFKC"), T("Replace", pattern={"String": " "}, content="\u2581"))}),
    ("pieces added", "llama2", {"added_tokens": [token(0, "<unk>", special=True), token(1, "<s>", special=True), token(2, "</s>", special=True), token(1500, "<lst>", lstrip=True, normalized=True), token(1501, "<rst>", rstrip=True), token(1502, "word", single_word=True, normalized=True), token(259, "\u2581\u2581")]}),
]


def main():
    cases = []
    for name, base, members in CASES:
        spec = json.load(open(os.path.join(HERE, f"tokenizer_{base}.json"), encoding="utf-8"))
        for key, value in members.items():
            spec[key] = {**spec[key], **value} if key == "model" else value
        tok = Tokenizer.from_str(json.dumps(spec))
        ids = [tok.encode(s).ids for s in STRINGS]
        # The reference decodes a normalized added token as its normalized text (0.23), and É through the byte alphabet.
        texts = lambda skip: None if name in ("normalized added", "pieces added") else [tok.decode(i, skip_special_tokens=skip) for i in ids]
        cases.append({"name": name, "base": base, "set": members, "ids": ids, "text": texts(True), "all": texts(False)})
    with open(os.path.join(HERE, "tokenizer_steps.json"), "w", encoding="utf-8") as f:
        f.write("{\"strings\":" + json.dumps(STRINGS) + ",\"cases\":[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]}\n")
    print(len(cases), "cases", os.path.getsize(os.path.join(HERE, "tokenizer_steps.json")))


main()
