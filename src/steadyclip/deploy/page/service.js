// What answers: the service that this page comes from.
const byId = id => document.getElementById(id);

async function ask(path, options = {}) {
  const token = byId("token").value;
  const headers = { ...options.headers, ...(token ? { authorization: "Bearer " + token } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) byId("asks").hidden = false;
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

globalThis.backend = {
  about: async () => (await ask("about")).json(),
  predict: async (file, before) => {
    const headers = { "content-type": "image/*" };
    const answer = await ask("predict" + (before ? "?before=1" : ""), { method: "POST", body: file, headers });
    const cut = answer.headers.get("x-threshold");
    const label = decodeURIComponent(answer.headers.get("x-label"));
    return { label, threshold: cut ? parseFloat(cut) : null, answers: await answer.json() };
  },
};
