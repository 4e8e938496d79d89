// Scores one instance over trueup's HTTP API. Types come from schema.ts, which is generated: `npm run generate`.

import type { components, operations } from "./schema.js";

type Body = operations["score"]["requestBody"]["content"]["application/json"];
type ScoreOne = Extract<Body, { instance: unknown }>;

export type Answer = components["schemas"]["Answer"];
export type ErrorBody = components["schemas"]["ErrorBody"];
export type Scalar = string | number | boolean | null;

export interface Server {
  url: string;
  key: string;
  timeoutMs?: number; // of the whole call, with all attempts and pauses
  attempts?: number;
}

/** What the server answered instead: its status, and its code, next step and field errors. */
export class TrueupError extends Error {
  constructor(
    readonly status: number,
    readonly body: ErrorBody | null,
  ) {
    super(body?.message ?? `the answer was HTTP ${status}`);
    this.name = "TrueupError";
  }
}

const AGAIN = new Set([429, 502, 503, 504]);

/**
 * The answer comes after the ledger committed it. `key` is the idempotency key, such as an order's id: every attempt
 * carries it, and whoever asks again with it later gets this answer, so that there is never a second prediction.
 */
export async function score(
  server: Server,
  deployment: string,
  instance: Record<string, Scalar>,
  options: { key: string; reasons?: boolean },
): Promise<Answer> {
  const request: ScoreOne = { instance, key: options.key, reasons: options.reasons ?? false };
  const body = JSON.stringify(request);
  const url = `${server.url}/v1/deployments/${encodeURIComponent(deployment)}/score`;
  const end = AbortSignal.timeout(server.timeoutMs ?? 15_000);
  const most = server.attempts ?? 5;
  for (let attempt = 1; ; attempt++) {
    let pauseMs = Math.random() * Math.min(5_000, 100 * 2 ** attempt);
    try {
      const response = await fetch(url, {
        method: "POST",
        headers: { authorization: `Bearer ${server.key}`, "content-type": "application/json" },
        body,
        redirect: "error",
        signal: end,
      });
      if (response.ok) return (await response.json()) as Answer;
      const error = new TrueupError(response.status, await errorOf(response));
      if (!AGAIN.has(response.status) || attempt >= most) throw error;
      pauseMs += 1_000 * (Number(response.headers.get("retry-after")) || 0);
    } catch (error) {
      if (error instanceof TrueupError || end.aborted || attempt >= most) throw error;
    }
    await pause(pauseMs, end);
  }
}

async function errorOf(response: Response): Promise<ErrorBody | null> {
  try {
    return ((await response.json()) as components["schemas"]["ErrorAnswer"]).error;
  } catch {
    return null; // something on the way answered, and not trueup
  }
}

function pause(ms: number, end: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(end.reason);
    };
    const timer = setTimeout(() => {
      end.removeEventListener("abort", stop);
      resolve();
    }, ms);
    end.addEventListener("abort", stop, { once: true });
  });
}
