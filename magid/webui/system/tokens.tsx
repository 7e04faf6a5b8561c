// Tokens: who may call magid. A new one is shown once.
import { useEffect, useState } from "preact/hooks";

import { get, loadSession, post, remove } from "../api/request.ts";
import type { Token, Tokens as TokensReply } from "../api/types.ts";
import { confirmed } from "../parts/dialog.tsx";
import { Command } from "../parts/copy.tsx";
import { moment } from "../parts/format.ts";
import { act, tellError } from "../parts/notices.tsx";
import { Table, type Column } from "../parts/table.tsx";

const SCOPES = ["read", "infer", "admin"] as const;
const ABOUT = { read: "see everything", infer: "ask models", admin: "do everything" };

export function Tokens() {
  const [reply, setReply] = useState<TokensReply>();
  const [made, setMade] = useState("");
  const load = () => get<TokensReply>("api/tokens").then(setReply, tellError);
  useEffect(() => void load(), []);
  if (reply === undefined) return null;
  const revoke = async (name: string) => {
    const text = "Programs that use it are refused from now on.";
    if (!(await confirmed(`Revoke token ${name}?`, text, "Revoke"))) return;
    await act(() => remove<{ message: string }>(`api/tokens/${encodeURIComponent(name)}`));
    await load();
  };
  const create = async (name: string, scopes: string[]) => {
    try {
      const answer = await post<{ token: string }>("api/tokens", { name, scopes });
      setMade(answer.token);
      await load();
      await loadSession();
    } catch (error) {
      tellError(error);
    }
  };
  return (
    <section aria-labelledby="tokens">
      <h2 id="tokens">Tokens</h2>
      {reply.problem && <p class="problem">{reply.problem}</p>}
      {made && <Made token={made} onClose={() => setMade("")} />}
      {reply.tokens.length === 0 ? (
        <p class="quiet">
          There are none: who reaches this address may do everything. The first one is made on the
          server, because from then on each caller needs one:{" "}
          <Command text="magictl token create NAME --scope admin" />
        </p>
      ) : (
        <>
          <List tokens={reply.tokens} revoke={(name) => void revoke(name)} />
          <NewToken onCreate={(name, scopes) => void create(name, scopes)} />
        </>
      )}
    </section>
  );
}

function Made({ token, onClose }: { token: string; onClose: () => void }) {
  return (
    <div class="note warn" role="alert">
      <div>
        <p>This token is shown once. Copy it now:</p>
        <Command text={token} />
      </div>
      <button onClick={onClose}>Done</button>
    </div>
  );
}

function List({ tokens, revoke }: { tokens: Token[]; revoke: (name: string) => void }) {
  const columns: Column<Token>[] = [
    { key: "name", title: "Name", cell: ({ name }) => <span class="name">{name}</span> },
    { key: "scopes", title: "May", cell: ({ scopes }) => scopes.join(", ") },
    { key: "models", title: "Models", low: true,
      cell: ({ models }) => models?.join(", ") ?? "all" },
    { key: "used", title: "Last used", low: true, cell: ({ lastUsedAt }) => moment(lastUsedAt) },
    { key: "expires", title: "Expires", low: true,
      cell: ({ expiresAt, expired }) => (expired ? "expired" : moment(expiresAt)) },
    { key: "verbs", title: "Actions", isTitleHidden: true, isNumber: true,
      cell: ({ name }) => (
        <button aria-label={`Revoke ${name}`} onClick={() => revoke(name)}>
          Revoke
        </button>
      ) },
  ];
  return <Table label="Tokens" columns={columns} rows={tokens} keyOf={({ id }) => id} />;
}

function NewToken({ onCreate }: { onCreate: (name: string, scopes: string[]) => void }) {
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<string[]>(["infer"]);
  const toggle = (scope: string) =>
    setScopes(scopes.includes(scope) ? scopes.filter((one) => one !== scope) : [...scopes, scope]);
  return (
    <form
      class="filters new-token"
      onSubmit={(event) => {
        event.preventDefault();
        onCreate(name, scopes);
        setName("");
      }}
    >
      <label for="token-name">New token</label>
      <input
        id="token-name"
        placeholder="Name"
        required
        pattern="[A-Za-z0-9][A-Za-z0-9._\-]*"
        value={name}
        onInput={(event) => setName(event.currentTarget.value)}
      />
      {SCOPES.map((scope) => (
        <label key={scope} class="check">
          <input
            type="checkbox"
            checked={scopes.includes(scope)}
            onChange={() => toggle(scope)}
          />{" "}
          {scope} <span class="quiet">{ABOUT[scope]}</span>
        </label>
      ))}
      <button class="primary" disabled={scopes.length === 0}>
        Make
      </button>
    </form>
  );
}
