"""A function that does not know that it runs in workers."""


def load_factor() -> float:
    return 0.5


def halve(factor: float, number: float) -> float:
    return factor * number
