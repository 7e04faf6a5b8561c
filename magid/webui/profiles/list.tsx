// All profiles, and the switch to another one.
import { useEffect, useRef, useState } from "preact/hooks";

import { get, mayChange, post } from "../api/request.ts";
import type { Plan, Profile } from "../api/types.ts";
import { confirmed } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Icon } from "../parts/icons.tsx";
import { act, tellError } from "../parts/notices.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { go, to } from "../shell/route.ts";
import { connection, listeners, live } from "../stream/client.ts";
import { deleteProfile, pathOf, problemOf } from "./actions.ts";
import { NEW } from "./draft.ts";
import { PlanView } from "./plan.tsx";

interface Entry {
  slug: string;
  profile?: Profile;
  problem?: string;
}

/**
 * The profiles' contents; those that have changed are asked for again, and after the connection
 * was lost those that could not be had.
 */
function useProfiles(names: string[]): Entry[] {
  const [known, setKnown] = useState<Record<string, Entry>>({});
  const missed = useRef(new Set<string>());
  const load = async (slug: string) => {
    missed.current.delete(slug);
    try {
      const profile = await get<Profile>(pathOf(slug));
      setKnown((old) => ({ ...old, [slug]: { slug, profile } }));
    } catch (error) {
      const problem = problemOf(error);
      if (problem === undefined) missed.current.add(slug);
      else setKnown((old) => ({ ...old, [slug]: { slug, problem } }));
    }
  };
  useEffect(() => {
    for (const slug of names) if (!(slug in known)) void load(slug);
  }, [names.join(" ")]);
  const isBack = connection.value === "open";
  useEffect(() => {
    if (isBack) for (const slug of [...missed.current]) void load(slug);
  }, [isBack]);
  useEffect(() => {
    const listener = ({ kind, data }: { kind: string; data: Record<string, unknown> }) => {
      if (kind === "profiles") for (const slug of data.changed as string[]) void load(slug);
    };
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return names.map((slug) => known[slug] ?? { slug });
}

/** Shows the plan, and activates the profile if the user agrees. */
async function activate(slug: string): Promise<void> {
  const now = live.peek();
  if (now === undefined) return;
  try {
    const plan = await post<Plan>(`${pathOf(slug)}/activate?dryRun=true`);
    const text = <PlanView plan={plan} live={now} />;
    if (!(await confirmed(`Switch to profile ${slug}?`, text, "Switch", false))) return;
    await act(() => post<Plan>(`${pathOf(slug)}/activate`));
  } catch (error) {
    tellError(error);
  }
}

const COLUMNS: Column<Entry>[] = [
  {
    key: "name",
    title: "Profile",
    cell: ({ slug, profile, problem }) => (
      <>
        <a class="name" href={to("profiles", slug)}>
          {profile?.name ?? slug}
        </a>
        {profile && profile.name.toLowerCase() !== slug && (
          <span class="quiet low"> {slug}</span>
        )}
        {problem && <div class="problem narrow">{problem}</div>}
      </>
    ),
  },
  { key: "about", title: "Description", low: true,
    cell: ({ profile, problem }) =>
      problem ? (
        <span class="problem" title={problem}>{problem}</span>
      ) : (
        <span title={profile?.description}>{profile?.description}</span>
      ) },
  { key: "models", title: "Models", low: true,
    cell: ({ profile }) => {
      const models = profile?.enabledModels.join(", ");
      return <span title={models}>{models}</span>;
    } },
  { key: "aliases", title: "Aliases", isNumber: true, low: true,
    cell: ({ profile }) => (profile ? Object.keys(profile.aliases).length : "") },
  { key: "verbs", title: "Actions", isTitleHidden: true, isNumber: true,
    cell: (entry) => <Verbs entry={entry} /> },
];

function Verbs({ entry: { slug, problem } }: { entry: Entry }) {
  const isBroken = problem !== undefined && (
    <span class="state bad" title={problem}>
      <Icon name="failed" /> Unusable
    </span>
  );
  if (slug === live.value?.activeProfile) {
    return (
      <>
        {isBroken}{" "}
        <span class="state good">
          <Icon name="ready" /> Active
        </span>
      </>
    );
  }
  if (!mayChange()) return <>{isBroken}</>;
  return (
    <>
      {isBroken || (
        <button aria-label={`Switch to ${slug}`} onClick={() => void activate(slug)}>
          Switch
        </button>
      )}{" "}
      <button
        class="bare"
        aria-label={`Delete ${slug}`}
        title="Delete"
        onClick={() => void deleteProfile(slug)}
      >
        <Icon name="close" />
      </button>
    </>
  );
}

export function ProfileList() {
  const names = live.value?.profiles ?? [];
  const entries = useProfiles(names);
  if (live.value === undefined) return <h1>Profiles</h1>;
  return (
    <>
      <div class="heading">
        <h1>Profiles</h1>
        {mayChange() && <button onClick={() => go("profiles", NEW)}>New profile</button>}
      </div>
      {entries.length === 0 ? (
        <Empty title="No profiles yet">
          <p>A profile says which models run. Without an active one, none does.</p>
        </Empty>
      ) : (
        <Table label="Profiles" columns={COLUMNS} rows={entries} keyOf={({ slug }) => slug} />
      )}
    </>
  );
}
