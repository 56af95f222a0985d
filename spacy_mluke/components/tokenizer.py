"""A spaCy tokenizer for streams that mix languages written with and without spaces."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import regex
from spacy import util
from spacy.language import Language
from spacy.tokenizer import Tokenizer
from spacy.tokens import Doc

# The scripts whose words are not set apart by spaces: those that break lines within a run of
# letters by UAX #14 (classes ID, SA and AK), as far as they are in modern use.
SPACELESS_SCRIPTS = (
    "Han",
    "Hiragana",
    "Katakana",
    "Bopomofo",
    "Yi",
    "Thai",
    "Lao",
    "Khmer",
    "Myanmar",
    "Tai_Le",
    "New_Tai_Lue",
    "Tai_Tham",
    "Tai_Viet",
    "Tibetan",
    "Javanese",
    "Balinese",
)
_SCRIPTS = "".join(rf"\p{{Script={script}}}" for script in SPACELESS_SCRIPTS)

# What Unicode files under "Common" because Hiragana and Katakana share it: the closing mark, the
# vertical repeat marks, masu, and the prolonged sound mark in both widths. Script_Extensions would
# find these too, and with them the apostrophe letter of Ukrainian, which Thai phonetics borrows.
_SHARED_LETTERS = r"\u3006\u3031-\u3035\u303C\u30FC\uFF70"

# What completes the character before it; Unicode counts two of these (Thai and Lao AM) as letters.
_EXTENDER = (
    r"[\p{M}\p{Grapheme_Cluster_Break=Extend}\p{Grapheme_Cluster_Break=SpacingMark}\u200C\u200D]"
)

# A letter or numeral of such a script that begins a written unit. Decimal digits are left out, so
# that a year stays one token in every script.
_LETTER = rf"[[{_SHARED_LETTERS}[[{_SCRIPTS}]&&[\p{{L}}\p{{Nl}}\p{{No}}]]]--{_EXTENDER}]"

# Punctuation and symbols of these scripts and of the blocks made for East Asian typesetting: CJK
# punctuation, the middle dot, enclosed and squared forms, vertical, small and fullwidth variants.
_MARK = (
    rf"[[\p{{P}}\p{{S}}]&&[{_SCRIPTS}\u3000-\u303F\u309B-\u309C\u30A0-\u30FF"
    r"\uFE10-\uFE1F\uFE30-\uFE6F\uFF01-\uFFEF]]|[[\p{S}\p{No}]&&[\u3200-\u33FF]]"
)

# One token: a grapheme cluster, and what belongs to it for a reader though not for UAX #29:
# spacing vowels of Myanmar, and the consonant that a stacking sign puts below the one before.
_STACKER = r"[\u1039\u17D2\u1A60\u1B44\uA9C0]"
_CLUSTER = (
    rf"(?=(?:{_LETTER}|{_MARK}))\X{_EXTENDER}*+"
    rf"(?:(?<={_STACKER})(?={_LETTER})\X{_EXTENDER}*+)*+"
)

# The commonest of these, each a cluster by itself unless it has marks: a run of them is cut by
# taking it for a list of characters, four times as fast as by the pattern.
_SIMPLE = (
    r"\u3001\u3002\u300C-\u300F\u3041-\u3096\u30A1-\u30FC\u4E00-\u9FFF"
    r"\uFF01\uFF08\uFF09\uFF0C\uFF1A\uFF1B\uFF1F"
)

# A superset of the letters, coarse enough for `re` to pass over other text at 200 MB/s.
_MAYBE_LETTER_SEARCH = re.compile(
    "[\u0e01-\u109f\u1780-\u17ff\u1950-\u1b7f\u3005-\ua4cf\ua980-\uaadf\uf900-\ufaff\uff66-\uff9f"
    "\U00016fe0-\U0001b2ff\U00020000-\U0003ffff]"
).search
_LETTER_SEARCH = regex.compile(_LETTER, regex.V1).search
_CLUSTER_SEARCH = regex.compile(_CLUSTER, regex.V1).search

# White space as spaCy and `re` see it; to `regex` four of these are none. The second one searches
# from the end.
_SPACE_SEARCH = re.compile(r"\s").search
_LAST_SPACE_SEARCH = regex.compile(r"(?r)[\s\x1C-\x1F]").search

# The text of a token, and its NORM where that is not the one of its lexeme.
_Word = tuple[str, str | None]


class _Cutter(NamedTuple):
    """What cuts a chunk, made from the special cases of a tokenizer.

    rules: The special cases, as spaCy keeps them.
    cases: The words of those that apply inside a chunk.
    normed: The words of all of them that have a NORM of their own.
    run_finditer: Finds the runs of clusters and special cases in a part of a text.
    """

    rules: dict[str, Any]
    cases: dict[str, list[_Word]]
    normed: set[str]
    run_finditer: Callable[[str, int, int], Iterable[Any]]


class MultilingualTokenizer(Tokenizer):
    """Tokenize as spaCy does, and cut scripts written without spaces into grapheme clusters.

    A chunk (what stands between white space) without a letter of `SPACELESS_SCRIPTS` is tokenized
    by spaCy's own `Tokenizer`, by the rules given here. In a chunk with such a letter, each letter
    with its marks and each East Asian punctuation mark is a token, and the stretches between them
    are tokenized as if they stood alone: "東京2020オリンピックとNHK" gives 東 京 2020 オ リ ン ピ
    ッ ク と NHK. Clusters, not words: whatever span is an entity, its bounds are token bounds.

    The constructor, the settings, `pipe`, `score` and what is serialized are those of `Tokenizer`;
    what one class has written, the other can read. A special case with a letter or mark of such a
    script, and without white space, applies wherever its text occurs in a chunk, the longest first:
    `add_special_case("東京", [{ORTH: "東京"}])` makes 東京 one token in running text.
    """

    _cutter: _Cutter | None = None

    @classmethod
    def from_language(
        cls, nlp: Language, *, max_cache_size: int = 100_000
    ) -> "MultilingualTokenizer":
        """Build the tokenizer with a language's own rules, as spaCy builds its tokenizer.

        nlp (Language): The pipeline; its vocab is shared, its `Defaults` give the rules.
        max_cache_size (int): How many chunks to remember. The default is ten times that of spaCy,
            which the words of two languages fill; they take some 200 bytes each.
        RETURNS (MultilingualTokenizer): The tokenizer.
        """
        defaults = nlp.Defaults
        prefixes, suffixes, infixes = defaults.prefixes, defaults.suffixes, defaults.infixes
        return cls(
            nlp.vocab,
            rules=defaults.tokenizer_exceptions,
            prefix_search=util.compile_prefix_regex(prefixes).search if prefixes else None,
            suffix_search=util.compile_suffix_regex(suffixes).search if suffixes else None,
            infix_finditer=util.compile_infix_regex(infixes).finditer if infixes else None,
            token_match=defaults.token_match,
            url_match=defaults.url_match,
            max_cache_size=max_cache_size,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # spaCy's own leaves out the last two, and they would be lost in a worker process.
        settings = (
            self.vocab,
            self.rules,
            self.prefix_search,
            self.suffix_search,
            self.infix_finditer,
            self.token_match,
            self.url_match,
            self.faster_heuristics,
            self.max_cache_size,
        )
        return type(self), settings

    def __call__(self, text: str) -> Doc:
        """Tokenize a text. The text of the doc is the text given, character by character.

        text (str): Any text that can be written in UTF-8.
        RETURNS (Doc): The tokens.
        RAISES (UnicodeEncodeError): If the text has a lone surrogate, as in spaCy's tokenizer.
        """
        if text.isascii() or _MAYBE_LETTER_SEARCH(text) is None:
            return super().__call__(text)
        words: list[str] = []
        spaces: list[bool] = []
        norms: list[tuple[int, str | None]] = []
        cutter = self._get_cutter()
        for stretch, units in self._segments(text):
            # spaCy's convention: one space belongs to the token before it.
            if words and stretch.startswith(" "):
                spaces[-1] = True
                stretch = stretch[1:]
            if stretch:
                doc = super().__call__(stretch)
                texts = [token.text for token in doc]
                if not cutter.normed.isdisjoint(texts):
                    norms.extend((len(words) + i, norm) for i, (_, norm) in enumerate(_words(doc)))
                words.extend(texts)
                spaces.extend([bool(token.whitespace_) for token in doc])
            if cutter.cases.keys().isdisjoint(units):
                words.extend(units)
            else:
                for unit in units:
                    for word, norm in cutter.cases.get(unit, [(unit, None)]):
                        norms.append((len(words), norm))
                        words.append(word)
            spaces.extend([False] * (len(words) - len(spaces)))
        doc = Doc(self.vocab, words=words, spaces=spaces)
        for i, norm in norms:
            if norm is not None:
                doc[i].norm_ = norm
        return doc

    def add_special_case(self, string: str, substrings: Iterable[dict[Any, Any]]) -> None:
        """Add a special-case tokenization rule, or replace the one for the same text.

        string (str): The text to tokenize specially.
        substrings (Iterable[Dict]): For each token its attributes: ORTH, and NORM if wanted. The
            ORTH values joined must be the text.
        RAISES (ValueError): If they are not, or if there are other attributes.
        """
        super().add_special_case(string, substrings)
        self._cutter = None

    def explain(self, text: str) -> list[tuple[str, str]]:
        """Say for each token of a text, white space aside, which rule or pattern made it.

        text (str): The text to tokenize.
        RETURNS (List[Tuple[str, str]]): Pairs of a name and the text of the token. Names are those
            of `Tokenizer.explain`, and "CLUSTER" for what was cut from a script without spaces.
        """
        tokens: list[tuple[str, str]] = []
        cases = self._get_cutter().cases
        for stretch, units in self._segments(text):
            tokens.extend(super().explain(stretch))
            for unit in units:
                if unit in cases:
                    words = enumerate(cases[unit], start=1)
                    tokens.extend((f"SPECIAL-{i}", word) for i, (word, _) in words)
                else:
                    tokens.append(("CLUSTER", unit))
        return tokens

    def _segments(self, text: str) -> Iterator[tuple[str, list[str]]]:
        """Take a text apart, in order, into what spaCy tokenizes and what is cut.

        text (str): The text.
        YIELDS (Tuple[str, List[str]]): A stretch for spaCy, which may be empty or span several
            chunks, and the clusters and special cases that follow it: none after the last stretch.
        """
        cutter = self._get_cutter()
        start = end = 0
        while (letter := _MAYBE_LETTER_SEARCH(text, end)) is not None:
            space = _LAST_SPACE_SEARCH(text, end, letter.start())
            begin = end if space is None else space.end()
            space = _SPACE_SEARCH(text, letter.end())
            end = len(text) if space is None else space.start()
            if _LETTER_SEARCH(text, letter.start(), end) is None:
                continue
            for run in cutter.run_finditer(text, begin, end):
                units = run.captures("units") or list(run[0])
                yield text[start : run.start()], units
                start = run.end()
        yield text[start:], []

    def _get_cutter(self) -> _Cutter:
        # Rules come one by one through `add_special_case`, or all go when another dict takes the
        # place of this one; while the cutter holds it, no other dict can have its identity.
        rules = self.rules
        if self._cutter is None or self._cutter.rules is not rules:
            self._cutter = self._make_cutter(rules)
        return self._cutter

    def _make_cutter(self, rules: dict[str, Any]) -> _Cutter:
        cases: dict[str, list[_Word]] = {}
        normed: set[str] = set()
        for string in rules:
            words = _words(super().__call__(string))
            normed.update(word for word, norm in words if norm is not None)
            if _CLUSTER_SEARCH(string) and string.split() == [string]:
                cases[string] = words
        simple = f"[{_SIMPLE}]"
        unit = _CLUSTER
        if cases:
            # A case does not end inside a cluster: か is not found in か with a voicing mark. No
            # simple run goes past the beginning of a case.
            unit = rf"\L<cases>(?!{_EXTENDER})|{_CLUSTER}"
            firsts = "".join(rf"\U{ord(string[0]):08X}" for string in cases)
            simple = f"[{simple}--[{firsts}]]"
        pattern = rf"{simple}+(?!{_EXTENDER})|(?P<units>{unit})++"
        names = {"cases": list(cases)} if cases else {}
        run_finditer = regex.compile(pattern, regex.V1, **names).finditer
        return _Cutter(rules, cases, normed, run_finditer)


def _words(doc: Doc) -> list[_Word]:
    return [(token.text, token.norm_ if token.norm != token.lex.norm else None) for token in doc]
