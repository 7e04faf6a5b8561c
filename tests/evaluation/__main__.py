"""How good the complexity score is, on prompts of this project: `python -m tests.evaluation`."""

from tests.evaluation.report import LANGUAGES, evaluate, held_out, prompts


def main() -> None:
    print("tier by score for labelled prompts; random: the same mix of tiers, dealt out at random")
    columns = ("prompts", "decided", "right", "random", "enough", "random")
    print(" " * 14, *(f"{column:>7}" for column in columns))
    everything = prompts()
    rows = [("all", everything), ("held out", held_out(everything))]
    rows += [(lang, [p for p in everything if p.language == lang]) for lang in LANGUAGES]
    for name, chosen in rows:
        r = evaluate(chosen)
        print(
            f"{name:14} {r.prompts:7} {r.decided:7} {r.right:7.0%} {r.right_at_random:7.0%} "
            f"{r.enough:7.0%} {r.enough_at_random:7.0%}"
        )


if __name__ == "__main__":
    main()
