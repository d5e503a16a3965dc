"""Numbers of things, in words."""


def counted(number: int, thing: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {thing}" + ("" if number == 1 else "s")
