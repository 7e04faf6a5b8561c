// Where a model came from, as the hub said when it was downloaded.
import type { ModelOrigin } from "../api/types.ts";
import { pageOf } from "../library/progress.ts";
import { moment } from "../parts/format.ts";

export function Origin({ origin }: { origin: ModelOrigin | null }) {
  if (origin === null) return <p class="quiet">Its files were not downloaded by magid.</p>;
  const { endpoint, repository, revision, commit, licence, path, sha256, downloadedAt } = origin;
  const page = pageOf(origin);
  const facts: [string, string][] = [
    ["Hub", endpoint],
    ["Revision", revision],
    ["Commit", commit],
    ["Licence", licence || "not named"],
    ["File there", path],
    ["SHA-256", sha256],
    ["Downloaded", moment(downloadedAt)],
  ];
  return (
    <dl class="facts wide">
      <div>
        <dt>Repository</dt>
        <dd>
          {page === undefined ? (
            repository
          ) : (
            <a href={page} target="_blank" rel="noopener noreferrer">
              {repository}
            </a>
          )}
        </dd>
      </div>
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
