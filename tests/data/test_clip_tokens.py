"""CLIP's tokenizer against its reference ids, and against an independent plain one on real captions."""

import gzip
import json
import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from imgcls_jax.data.captions import Captions
from imgcls_jax.data.clip_tokens import ClipTokenizer, find_vocabulary
from imgcls_jax.data.prompts import prompts, read_classes, read_templates

DATA = Path(__file__).parents[3] / "shared/data"
# Ids of the reference tokenizer, without start and end.
GOLDEN = {
    "a photo of a Black_footed Albatross.": [320, 1125, 539, 320, 1449, 318, 38040, 42797, 2158, 269],
    "it's 2 dogs!!": [585, 568, 273, 3255, 748],
    "naïve café 犬": [1097, 35689, 563, 15304, 163, 232, 361],
    "a&amp;amp;b": [320, 261, 321],
    "a&amp;b": [320, 261, 321],
}
MERGES = "#version\nb i\nr d</w>\nbi rd</w>\n1 2</w>\n"


@pytest.fixture(scope="module")
def real():
    if not (DATA / "clip").is_dir():
        pytest.skip(f"{DATA / 'clip'} is not here")
    return ClipTokenizer(DATA / "clip")


@pytest.fixture
def tiny(tmp_path):
    """A vocabulary of four merges: 256 bytes, 256 with </w>, 512 to 515 the merges, 516 start, 517 end."""
    (tmp_path / "bpe_simple_vocab_16e6.txt").write_text(MERGES, encoding="utf-8")
    return tmp_path


def plain_pieces(text):
    """Splits a text by hand: specials apart, endings, runs of letters, single digits, runs of the rest."""
    kind = lambda c: unicodedata.category(c)[0]  # noqa: E731
    pieces, i = [], 0
    while i < len(text):
        ending = next((e for e in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(e, i)), "")
        if ending:
            pieces.append(ending)
        elif text[i].isspace():
            i += 1
            continue
        elif kind(text[i]) == "N":
            pieces.append(text[i])
        else:
            letters, stop = kind(text[i]) == "L", i + 1
            while stop < len(text) and not text[stop].isspace() and kind(text[stop]) != "N":
                if (kind(text[stop]) == "L") != letters:
                    break
                stop += 1
            pieces.append(text[i:stop])
        i += len(pieces[-1])
    return pieces


def plain_ids(path):
    """Returns the function text -> ids by the loop that the paper on byte pairs prints."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    printing = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    letter, number = dict(zip(printing, map(chr, printing), strict=True)), 256
    for byte in range(256):
        if byte not in letter:
            letter[byte], number = chr(number), number + 1
    symbols = [*letter.values(), *(s + "</w>" for s in letter.values()), *map("".join, merges)]
    id_of = {symbol: i for i, symbol in enumerate(symbols)}
    rank = {pair: i for i, pair in enumerate(merges)}
    known = {}

    def merged(piece):
        word = [letter[byte] for byte in piece.encode()]
        word[-1] += "</w>"
        while len(word) > 1:
            best = min(zip(word, word[1:], strict=False), key=lambda pair: rank.get(pair, 10**9))
            if best not in rank:
                break
            joined, i = [], 0
            while i < len(word):
                if tuple(word[i : i + 2]) == best:
                    joined.append("".join(best))
                    i += 2
                else:
                    joined.append(word[i])
                    i += 1
            word = joined
        return [id_of[symbol] for symbol in word]

    def ids(text):
        found = []
        for piece in plain_pieces(" ".join(text.split()).lower()):
            known[piece] = known.get(piece) or merged(piece)
            found += known[piece]
        return found

    return ids


def test_reference_ids(real):
    assert real.vocab_size == 49408
    assert {text: real.ids(text) for text in GOLDEN} == GOLDEN
    (row,) = real(["it's 2 dogs!!"], truncate=False)
    assert row.dtype == np.int32 and row.shape == (77,)
    assert row[:8].tolist() == [49406, 585, 568, 273, 3255, 748, 49407, 0] and not row[7:].any()


def test_equals_a_plain_tokenizer_on_real_captions(real):
    files = sorted((DATA / "CUB_200_2011_photos/captions").glob("*/*.txt"))
    captions = [line for file in files for line in file.read_text().splitlines() if line.strip()]
    by_hand = plain_ids(find_vocabulary(DATA / "clip"))
    assert len(captions) == 4300
    assert [text for text in captions if real.ids(text) != by_hand(text)] == []


def test_a_tiny_vocabulary_by_hand(tiny):
    tokenizer = ClipTokenizer(tiny, context_length=6)
    assert tokenizer.vocab_size == 518
    a, bird, two = 256 + ord("a") - 33, 514, 256 + ord("2") - 33
    assert tokenizer.ids("A  bird") == [a, bird]
    assert tokenizer.ids("12") == [256 + ord("1") - 33, two]  # one digit a token: no merge across digits
    rows = tokenizer(["a bird", "a bird a bird a"], truncate=True)
    assert rows.tolist() == [[516, a, bird, 517, 0, 0], [516, a, bird, a, bird, 517]]
    with pytest.raises(ValueError, match="at most 4 tokens; 'a bird a bird a'... has 5"):
        tokenizer(["a bird a bird a"], truncate=False)
    assert tokenizer.ids(b"caf\xe9".decode("utf-8", "surrogateescape")) == tokenizer.ids("caf\ufffd")
    assert pickle.loads(pickle.dumps(tokenizer)).ids("a bird") == [a, bird]


def test_hugging_faces_files_give_the_same_ids(tiny, tmp_path):
    tokenizer = ClipTokenizer(tiny)
    vocabulary = tokenizer._tokenizer.get_vocab()
    other = tmp_path / "pair"
    other.mkdir()
    (other / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (other / "merges.txt").write_text(MERGES, encoding="utf-8")
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "tokenizer.json").write_text(tokenizer._tokenizer.to_str(), encoding="utf-8")
    for folder in (other, whole):
        again = ClipTokenizer(folder)
        for text in ("A bird's 12 birds", "é bird!?", "&lt;bird"):
            assert again.ids(text) == tokenizer.ids(text)


def test_a_package_is_looked_into_and_not_imported(tiny, tmp_path, monkeypatch):
    package = tmp_path / "site" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    packed = gzip.compress(MERGES.encode())
    (package / "bpe_simple_vocab_16e6.txt.gz").write_bytes(packed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(package.parent))
    assert ClipTokenizer("open_clip").vocab_size == 518


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bpe_simple_vocab_16e6.txt", b"", "no pairs under a first line"),
        ("bpe_simple_vocab_16e6.txt", b"#\na b c\n", "line 2: expected two symbols to merge"),
        ("bpe_simple_vocab_16e6.txt", b"#\nq!q zz\n", "no vocabulary of byte pairs"),
        ("bpe_simple_vocab_16e6.txt", b"\xff\xfe\x00", "no vocabulary of CLIP"),
        ("bpe_simple_vocab_16e6.txt.gz", b"plain", "no vocabulary of CLIP"),
        ("tokenizer.json", b"{}", "not a file of the package tokenizers"),
        ("vocab.json", b"[1, 2]", "expected an object of symbols and ids"),
        ("vocab.json", b'{"a": -1}', "expected an object of symbols and ids"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "merges.txt").write_text("#\na b\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        ClipTokenizer(tmp_path)


def test_a_vocabulary_without_an_end_token_last_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}))
    (tmp_path / "merges.txt").write_text("#\na b\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no vocabulary of CLIP: it needs"):
        ClipTokenizer(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no vocabulary of CLIP is there: name bpe_simple_vocab"):
        ClipTokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="merges.txt is missing"):
        ClipTokenizer(tmp_path)


def test_captions_fill_up_with_rows_of_zeros(tiny):
    captions = Captions([["a bird"], ["bird", "a", "bird bird"]], str(tiny), 4)
    assert captions[0].tolist()[1:] == [[0] * 4] * 2
    assert captions[1][:, 1].tolist() == [514, 256 + ord("a") - 33, 514]
    assert (captions[1] != 0).sum() == 10


def test_templates_and_classes(tmp_path):
    assert prompts(["owl", "jay"], read_templates("plain")) == [
        ["a photo of a owl."],
        ["a photo of a jay."],
    ]
    assert len(read_templates("seven")) == 7 and all("{}" in line for line in read_templates("seven"))
    assert read_templates("the {}!") == ("the {}!",)
    (tmp_path / "lines.txt").write_text("a {}\n\none {} here\n")
    assert read_templates(tmp_path / "lines.txt") == ("a {}", "one {} here")
    (tmp_path / "lines.txt").write_text("a {}\n\nsecret\n")
    with pytest.raises(ValueError, match="lines.txt, line 3: expected a sentence with one '{}'") as told:
        read_templates(tmp_path / "lines.txt")
    assert "secret" not in str(told.value)
    with pytest.raises(ValueError, match="one '{}', where the class stands; got 'none'"):
        read_templates(("a {}", "none"))
    with pytest.raises(FileNotFoundError, match="nor one of plain, seven"):
        read_templates("eighty")
    (tmp_path / "classes.txt").write_text("crane\tcrane, a bird\njay\n")
    assert read_classes(tmp_path / "classes.txt") == (("crane", "jay"), ("crane, a bird", "jay"))
    (tmp_path / "classes.txt").write_text("jay\njay\n")
    with pytest.raises(ValueError, match="two classes are named 'jay'"):
        read_classes(tmp_path / "classes.txt")
