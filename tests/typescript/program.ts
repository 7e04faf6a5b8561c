// What docs/webui.md shows to authors of a WebUI, as a program: it prints one line of JSON.
import { getEvents, getModelsRegistry, putModelsByModelIdTier } from './client';
import { client } from './client/client.gen';
import type { DiscoveredModel } from './client';

client.setConfig({ baseUrl: process.env.MAGI_URL });

async function main() {
  const { data: registry } = await getModelsRegistry({ throwOnError: true });
  const models: DiscoveredModel[] = Object.values(registry.models);
  const first = models[0];
  if (first === undefined) throw new Error('no model');
  // @ts-expect-error the types are more than `any`: this is no field, and does not compile
  void first.effectiveTeir;

  // Every fact as it is, then each change: no polling.
  const { stream } = await getEvents();
  const seen: string[] = [];
  let told: unknown;
  for await (const event of stream as AsyncIterable<{ revision: number }>) {
    if (seen.length === 0) {
      seen.push('snapshot');
      await putModelsByModelIdTier({
        path: { modelId: first.modelId },
        body: { tier: 'powerful' },
        throwOnError: true,
      });
      continue;
    }
    const models = (event as { models?: Record<string, DiscoveredModel> }).models;
    if (models?.[first.modelId]) {
      told = models[first.modelId]?.effectiveTier;
      break;
    }
  }

  // An error has one shape, whatever went wrong.
  const { error, response } = await putModelsByModelIdTier({
    path: { modelId: 'nothing' },
    body: { tier: 'fast' },
  });

  // An unchanged registry costs no bytes.
  const again = await fetch(`${process.env.MAGI_URL}/api/models/registry`);
  const unchanged = await fetch(`${process.env.MAGI_URL}/api/models/registry`, {
    headers: { 'If-None-Match': again.headers.get('etag') ?? '' },
  });

  console.log(
    JSON.stringify({
      models: models.map((model) => model.modelId),
      told,
      error: error?.error,
      message: error?.message,
      status: response?.status,
      unchanged: unchanged.status,
    }),
  );
  process.exit(0);
}

void main();
