// api/models.ts
import axios from 'axios';

const client = axios.create({
  baseURL: 'http://localhost:8000',
  headers: {
    'Content-Type': 'application/json',
  },
});

export const getModelRegistry = async () => {
  const response = await client.get('/api/models/registry');
  return response.data;
};

export const updateModelTier = async (modelId: string, tier: string) => {
  const response = await client.put(`/api/models/${modelId}/tier`, { tier });
  return response.data;
};

export const listProfiles = async () => {
  const response = await client.get('/api/models/profiles');
  return response.data;
};
