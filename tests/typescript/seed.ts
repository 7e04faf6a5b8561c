// Runs the examples in seed/ as they stand, and prints what they return as one line of JSON.
// They ask http://localhost:8000: connections to it lead to the daemon under test here.
import http from 'node:http';
import { createElement } from 'react';
import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { getModelRegistry, listProfiles, updateModelTier } from './seed/api/models';
import { useModelRegistry } from './seed/hooks/useModelRegistry';

const port = Number(process.env.MAGI_PORT);
const agent: any = http.globalAgent;
const connect = agent.createConnection;
agent.createConnection = (options: { port: number | string }, made: unknown) => {
  if (String(options.port) !== '8000') throw new Error(`a connection to port ${options.port}`);
  return connect.call(agent, { ...options, host: '127.0.0.1', port }, made);
};

/** What the hook gives a component, once it has got something. */
async function rendered(): Promise<unknown> {
  const { JSDOM } = require('jsdom');
  const page = new JSDOM('<div id="root"></div>');
  for (const name of ['window', 'document', 'navigator']) {
    Object.defineProperty(globalThis, name, { value: page.window[name], configurable: true });
  }
  const { createRoot } = require('react-dom/client');
  return new Promise((resolve, reject) => {
    function Registry() {
      const { data, error } = useModelRegistry();
      if (error) reject(error);
      if (data) resolve(data);
      return createElement('p', null, data ? 'here' : 'loading');
    }
    createRoot(page.window.document.getElementById('root')).render(
      createElement(QueryClientProvider, { client: new QueryClient() }, createElement(Registry)),
    );
  });
}

async function main() {
  const modelId = process.env.MODEL_ID ?? '';
  const registry = await getModelRegistry();
  const updated = await updateModelTier(modelId, 'powerful');
  const profiles = await listProfiles();
  const refusal = await updateModelTier('nothing', 'fast').catch((error) => ({
    status: error.response.status,
    error: error.response.data.error,
  }));
  console.log(JSON.stringify({ registry, updated, profiles, refusal, hook: await rendered() }));
  process.exit(0);
}

void main();
