"""Text from a crawl as one can read it: what does not print steers no terminal and ends no line."""

_JOINERS = "\u200c\u200d"  # not printable by themselves, but letters of Persian and emoji are made with them


def visible(text: str) -> str:
    r"""What does not print is shown as its code, as Python writes it: \n, \x1b, \u200b."""
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in text)
