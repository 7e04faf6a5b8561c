"""Numbers of things in messages: the one place that knows singular and plural."""


def counted(number: int, one: str, many: str = "") -> str:
    """Returns `1 model`, `0 models`, `3 models`.

    `many` is for what does not only get an s: `counted(n, "model is", "models are")`.
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"
