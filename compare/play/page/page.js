// What the scripts of the page share: its state, requests to the server, and small helpers.

export const $ = (id) => document.getElementById(id);

export const page = {
  tracks: [], // {id, name, color}
  limit: Infinity, // bytes of a picture
  chosen: null, // the class whose logit is differentiated
  step: 1, // of the forward and the backward pass
  here: {}, // networks trained here: {name: name of the network that it was trained like}
};

export const network = () => $("network").value;

// Tell play.js that the answer on the page is out of date.
export const changed = () => document.dispatchEvent(new Event("changed"));

export const ask = async (path, options) => {
  const response = await fetch(path, options).catch(() => null);
  if (!response) throw new Error("The server does not answer: is python -m compare.play still running?");
  const answer = await response.json().catch(() => ({ error: `the server answered with status ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
};

export const sentenceCase = (words) => words && words[0].toUpperCase() + words.slice(1);

export const wrong = (error) => {
  $("wrong").textContent = sentenceCase(error?.message ?? "");
};

export const element = (name, properties, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

export const shape = (sizes) => sizes.join(" × ");
export const trackName = (id) => page.tracks.find((track) => track.id === id).name;
export const pair = ({ a, b }) => `${trackName(a)}, ${trackName(b)}`;
export const percent = (p) => (p < 5e-5 ? "< 0.01 %" : p >= 0.99995 ? "> 99.99 %" : `${(100 * p).toFixed(2)} %`);
