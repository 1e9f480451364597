// One picture of a part to its verdict. Node 20 or newer, no packages.
//   INSPECT_URL=http://localhost:8000 INSPECT_KEY=fls_... node examples/inspect_part.mjs part.png SERIAL LOT STATION
// Exit code: 0 ok, 10 not_ok, 11 a person must look (review, undecidable), any other: the part is not inspected.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const url = process.env.INSPECT_URL ?? "http://localhost:8000";
const key = process.env.INSPECT_KEY;
const PATIENCE_MS = 30_000; // after that the line must go on without an answer
const AGAIN = new Set([408, 429, 502, 503, 504]); // too busy, restarting, late: the same request may pass in a moment

/** The result of one picture. Throws when there is none: treat the part as not inspected. */
async function inspect(picture, serial, lot, station) {
  const giveUp = Date.now() + PATIENCE_MS;
  const headers = {
    // one shot of one part: however often this is sent, it is judged and recorded once; a digest, since headers are ASCII
    "Idempotency-Key": createHash("sha256").update(`${serial}\n${station}\n`).update(picture).digest("hex"),
    ...(key && { Authorization: `Bearer ${key}` }),
  };
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    const left = giveUp - Date.now();
    if (left <= 0) throw new Error(`no answer within ${PATIENCE_MS} ms`);
    const body = new FormData();
    body.set("image", new Blob([picture]), "part");
    for (const [name, value] of Object.entries({ serial, lot, station })) body.set(name, value);
    const answer = await fetch(`${url}/detect`, {
      method: "POST",
      body,
      headers: { ...headers, "X-Deadline-Ms": String(left) },
      signal: AbortSignal.timeout(left + 1000),
    }).catch((error) => console.error(`${error.cause ?? error}; trying again`));
    if (answer?.status === 200) return (await answer.json()).results[0];
    if (answer && !AGAIN.has(answer.status)) {
      // wrong picture, key, parameter: the same request fails again
      const said = await answer.text(); // a proxy in between may say it in HTML
      const json = (answer.headers.get("Content-Type") ?? "").includes("json");
      throw new Error(`${answer.status}: ${json ? JSON.parse(said).detail : said.slice(0, 200)}`);
    }
    await answer?.body?.cancel();
    const asked = Number(answer?.headers.get("Retry-After")) * 1000 || wait;
    // a little at random, so that the stations of a line do not all come back at the same moment
    await sleep(Math.min(asked * (1 + 0.3 * Math.random()), Math.max(0, giveUp - Date.now())));
  }
}

const [path, serial = "", lot = "", station = ""] = process.argv.slice(2);
try {
  if (!path) throw new Error("which picture? node examples/inspect_part.mjs part.png SERIAL LOT STATION");
  const result = await inspect(await readFile(path), serial, lot, station);
  console.log(serial, result.verdict, `score ${result.anomaly_score} of ${result.threshold}`, result.id);
  process.exitCode = { ok: 0, not_ok: 10 }[result.verdict] ?? 11;
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
