// hooks/useModelRegistry.ts
import { useQuery } from '@tanstack/react-query';
import { getModelRegistry } from '../api/models';

export const useModelRegistry = () => {
  return useQuery({
    queryKey: ['models', 'registry'],
    queryFn: getModelRegistry,
    refetchInterval: 30000, // Refetch every 30s
  });
};
