import assert from "node:assert/strict";
import { test } from "node:test";

import { changed, faultsAt, fieldOf, parse, type Path } from "../profiles/draft.ts";
import { isIdOf, selects } from "../profiles/selectors.ts";

const FILE = `# For the night.

# Shown in lists
name:   Night   # short
enabled_models:
# the small ones
- alpha  # first
- 'beta*'
# and this one
- gamma
# Names that programs ask for
aliases:
  # of a program
  gpt-4o:   powerful
  # slow
  qwen3:think: {model: qwen3, reasoning: 4096}
tierConfig:
- name: fast
  maxScore: 3.0
# two_stage:
#   enabled: true
`;

/** The lines that a change took away and brought. */
function difference(path: Path, value: unknown): [string[], string[]] {
  const [before, after] = [FILE.split("\n"), changed(FILE, path, value).split("\n")];
  return [
    before.filter((line) => !after.includes(line)),
    after.filter((line) => !before.includes(line)),
  ];
}

const valueOf = (text: string) => {
  const found = parse(text);
  return "value" in found ? found.value : assert.fail(found.fault.reason);
};

test("a text is read with the keys of files", () => {
  const value = valueOf(FILE);
  assert.deepEqual(value.tier_config, [{ name: "fast", max_score: 3 }]);
  assert.deepEqual(value.aliases, {
    "gpt-4o": "powerful", "qwen3:think": { model: "qwen3", reasoning: 4096 },
  });
  assert.deepEqual(valueOf("# nothing\n"), {});
  assert.deepEqual(valueOf("description: no\nx: 0x1\n"), { description: "no", x: 1 });
});

test("a text that is no YAML has a fault at its line", () => {
  const lineIn = (text: string) => {
    const found = parse(text);
    return "fault" in found ? found.fault.line : 0;
  };
  assert.equal(lineIn("name: x\naliases: [\n"), 3);
  assert.equal(lineIn("name: x\nname: y\n"), 2);
  assert.equal(lineIn("- a\n"), 1);
  assert.equal(lineIn("a: &x 1\nb: *x\n"), 1);
  assert.equal(lineIn("name: ok\n"), 0);
});

test("a change leaves all other lines as they are", () => {
  assert.deepEqual(difference(["name"], "Day"), [
    ["name:   Night   # short"], ["name: Day # short"],
  ]);
  assert.deepEqual(difference(["description"], "x: y"), [[], ['description: "x: y"']]);
  assert.deepEqual(difference(["tier_config", 0, "max_score"], 5), [
    ["  maxScore: 3.0"], ["  maxScore: 5.0"],
  ]);
  assert.deepEqual(difference(["aliases", "gpt-4o"], undefined)[0], [
    "  gpt-4o:   powerful",
  ]);
});

test("comments within a list and a mapping stay", () => {
  const models = changed(FILE, ["enabled_models"], ["alpha", "gamma", "delta"]);
  for (const comment of ["# the small ones", "alpha # first", "# and this one", "# Names that"]) {
    assert.ok(models.includes(comment), comment);
  }
  assert.deepEqual(valueOf(models).enabled_models, ["alpha", "gamma", "delta"]);
  const aliases = changed(FILE, ["aliases", "new"], { model: "alpha", set: { top_k: 1 } });
  for (const comment of ["# of a program", "# slow", "# two_stage:"]) {
    assert.ok(aliases.includes(comment), comment);
  }
  assert.deepEqual((valueOf(aliases).aliases as Record<string, unknown>).new, {
    model: "alpha", set: { top_k: 1 },
  });
});

test("texts in which no lines can be replaced", () => {
  assert.equal(changed("", ["name"], "x"), "name: x\n");
  assert.equal(changed("name: x", ["two_stage", "enabled"], true),
    "name: x\ntwo_stage:\n  enabled: true\n");
  assert.deepEqual(valueOf(changed("{name: x, aliases: {}}", ["aliases", "a"], "fast")), {
    name: "x", aliases: { a: "fast" },
  });
  assert.deepEqual(valueOf(changed("name: x\naliases: {}\n", ["name"], undefined)), {
    aliases: {},
  });
  assert.equal(changed("name: x\n", ["description"], "012"), 'name: x\ndescription: "012"\n');
});

test("faults stand at their fields", () => {
  const faults = ["aliases.a.set", "tierConfig[0].maxScore", "name"].map((field) => (
    { line: 1, field, reason: "" }
  ));
  assert.equal(fieldOf(["tier_config", 0, "max_score"]), "tier_config[0].max_score");
  const at = (...path: Path) => faultsAt(faults, path).map(({ field }) => field);
  assert.deepEqual(at("aliases", "a"), ["aliases.a.set"]);
  assert.deepEqual(at("aliases", "b"), []);
  assert.deepEqual(at("tier_config", 0, "max_score"), ["tierConfig[0].maxScore"]);
});

test("what an entry selects", () => {
  const model = { modelId: "qwen3_8p0b_q4km_fast", effectiveTier: "fast" } as const;
  const chosen = ["*", "qwen3_8b*", "qwen?_8p0b_q4km_fast", "qwen[0-9]*", "tier:fast", "q[!a]*"];
  for (const entry of chosen) assert.ok(selects(entry, model), entry);
  for (const entry of ["qwen3", "tier:balanced", "q[!w]*", "q[z-a]*", "q.*", "["]) {
    assert.ok(!selects(entry, model), entry);
  }
  for (const entry of ["*_*_*_*", "*q4*fast", "q*q4km*", "*3*8b*fast*", "**fast", "*1"]) {
    assert.equal(selects(entry, model), entry !== "*1", entry);
  }
  const long = { ...model, modelId: `${"a".repeat(200)}b` };
  assert.ok(!selects("*a".repeat(90), long)); // in no time, and not in all ways there are
  assert.ok(selects(`${"*a".repeat(90)}*b`, long));
  assert.ok(isIdOf("qwen3_8b_q4km_fast", model));
  assert.ok(!isIdOf("qwen3_8b_q4km", model));
});
