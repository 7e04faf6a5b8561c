// What a browser keeps of its user's choices. A browser that keeps nothing is no reason to fail.

export function stored<T>(name: string, fallback: T): T {
  try {
    const text = localStorage.getItem(`magid.${name}`);
    return text === null ? fallback : (JSON.parse(text) as T);
  } catch {
    return fallback;
  }
}

export function store(name: string, value: unknown): void {
  try {
    localStorage.setItem(`magid.${name}`, JSON.stringify(value));
  } catch {
    // full, or forbidden
  }
}
