"""Text form of protocol buffers: enough of it for configuration files, without protobuf.

`name: value`, `name { ... }`, `name: [a, b]`, comments from `#`; fields may end with a comma or a
semicolon. Knows no message: what the names mean is the caller's business.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<word>[A-Za-z_][\w.]*)
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)[fF]?)
    |(?P<mark>[-:{}<>\[\],;])""",
    re.VERBOSE,
)
ESCAPE = re.compile(r"""\\(?:(?P<octal>[0-7]{1,3})|x(?P<hex>[0-9a-fA-F]{1,2})|(?P<one>.))""")
SINGLE = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
CLOSING = {"{": "}", "<": ">"}
MAX_DEPTH = 20


class TextFormatError(ValueError):
    """The text is no message; `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line


class Token(NamedTuple):
    """A word, number, string or mark, and its line."""

    kind: str
    text: str
    line: int


class TextField(NamedTuple):
    """`name: value`: a token, or the fields of an inner message."""

    name: str
    value: "Token | list[TextField]"
    line: int


def _tokens(text: str) -> Iterator[Token]:
    position, line = 0, 1
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise TextFormatError(line, f"cannot make sense of {text[position : position + 12]!r}")
        if match.lastgroup != "space":
            yield Token(str(match.lastgroup), match[0], line)
        line += match[0].count("\n")
        position = match.end()
    yield Token("end", "", line)


def unescape(quoted: str) -> str:
    """The content of a quoted string."""

    def one(match: re.Match[str]) -> str:
        if match["octal"]:
            return chr(int(match["octal"], 8))
        return chr(int(match["hex"], 16)) if match["hex"] else SINGLE.get(match["one"], match[0])

    return ESCAPE.sub(one, quoted[1:-1])


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.at = 0

    def peek(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.tokens[self.at]
        self.at += token.kind != "end"
        return token

    def fields(self, closing: str | None, depth: int = 0) -> list[TextField]:
        """Fields up to `closing`, or to the end of the text."""
        if depth > MAX_DEPTH:
            raise TextFormatError(self.peek().line, "too many messages within each other")
        found: list[TextField] = []
        while True:
            token = self.take()
            if token.text == closing or (closing is None and token.kind == "end"):
                return found
            if token.kind != "word":
                wanted = f"a field or {closing!r}" if closing else "a field"
                raise TextFormatError(token.line, f"expected {wanted}, found {token.text!r}")
            found += self._field(token, depth)
            if self.peek().text in (",", ";"):
                self.take()

    def _field(self, name: Token, depth: int) -> Iterator[TextField]:
        colon = self.peek().text == ":"
        if colon:
            self.take()
        if self.peek().text != "[":
            yield self._value(name, colon, depth)
            return
        self.take()
        while self.peek().text != "]":
            yield self._value(name, colon, depth)
            if self.peek().text == ",":
                self.take()
            elif self.peek().text != "]":
                raise TextFormatError(self.peek().line, f"the list of {name.text} does not end")
        self.take()

    def _value(self, name: Token, colon: bool, depth: int) -> TextField:
        token = self.take()
        if token.text in CLOSING and token.kind == "mark":
            inner = self.fields(CLOSING[token.text], depth + 1)
            return TextField(name.text, inner, name.line)
        if not colon:
            raise TextFormatError(name.line, f"expected ':' or '{{' behind {name.text}")
        if token.text == "-" and self.peek().kind == "word":  # -inf
            token = Token("word", "-" + self.take().text, token.line)
        if token.kind not in ("word", "number", "text"):
            raise TextFormatError(token.line, f"{name.text} has no value")
        if token.kind == "text":
            text = unescape(token.text)
            while self.peek().kind == "text":  # pieces behind each other are one string
                text += unescape(self.take().text)
            token = Token("text", text, token.line)
        return TextField(name.text, token, name.line)


def parse_text_format(text: str) -> list[TextField]:
    """The fields of a message, in their order; TextFormatError names the line."""
    return _Parser(text).fields(None)
