"use strict";
// Chooses what is shown, lights the twins of a line, and walks from line to line. All facts stand in the page.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const form = document.querySelector("form");
  const detail = document.getElementById("detail");
  const sections = [...document.querySelectorAll("section")];
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const named = (id) => all(`.line[data-id="${id}"]`);
  const ids = (line, what) => line.dataset[what].split(" ").filter(Boolean);
  const visible = () => all("section:not([hidden]) .view:not([hidden]) .line").filter((line) => line.offsetParent);
  const NAMES = Object.fromEntries(all("[name=track]").map((box) => [box.value, box.parentElement.textContent.trim()]));

  const light = (line) => {
    all(".lit, .partner").forEach((each) => each.classList.remove("lit", "partner"));
    detail.hidden = !line;
    if (!line) return;
    const own = [line.dataset.id, ...ids(line, "twins")];
    const others = partners(line).flatMap((id) => [id, ...ids(named(id)[0], "twins")]);
    others.filter((id) => !own.includes(id)).flatMap(named).forEach((each) => each.classList.add("partner"));
    own.flatMap(named).forEach((each) => each.classList.add("lit"));
    tell(line);
  };

  // The lines of the other pass of NumPy: those of the line itself, or of its twin in NumPy.
  const partners = (line) => {
    const own = ids(line, "partners");
    return own.length ? own : ids(line, "twins").flatMap((id) => named(id).slice(0, 1)).flatMap((twin) => ids(twin, "partners"));
  };

  const copy = (id) => {
    const code = named(id)[0]?.querySelector(".code").cloneNode(true);
    const base = code && Math.min(...all(".l", code).map((each) => parseInt(each.style.getPropertyValue("--i"), 10)));
    code?.style.setProperty("--base", base);
    return code;
  };

  const tell = (line) => {
    const list = document.createElement("dl");
    const add = (name, value, kind = "") => {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      text.append(value);
      [term, text].forEach((each) => kind && each.classList.add(kind));
      list.append(term, text);
    };
    const track = (id) => NAMES[named(id)[0].closest(".cell").dataset.track];
    add(line.dataset.place, line.dataset.gaps ? `relative difference: ${line.dataset.gaps}` : line.querySelector(".value")?.textContent ?? "");
    for (const id of ids(line, "twins")) add(track(id), copy(id), "twin");
    const pass = line.closest(".view").dataset.view === "backward" && !line.classList.contains("derived") ? "forward" : "backward";
    for (const id of partners(line)) add(`NumPy, ${pass}`, copy(id));
    detail.replaceChildren(list);
  };

  const show = () => {
    const [topic, view] = location.hash.slice(1).split("/");
    const section = sections.find((each) => each.id === topic) ?? sections[0];
    const views = all(".view", section);
    const wanted = view ?? form.elements.view.value;
    const chosen = views.find((each) => each.dataset.view === wanted) ?? views.find((each) => each.dataset.view === "forward") ?? views[0];
    sections.forEach((each) => { each.hidden = each !== section; });
    views.forEach((each) => { each.hidden = each !== chosen; });
    for (const box of form.elements.view) box.disabled = !views.some((each) => each.dataset.view === box.value);
    form.elements.view.value = chosen.dataset.view;
    all("nav a").forEach((link) => (link.hash === `#${section.id}` ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")));
    all(".cell").forEach((cell) => cell.classList.toggle("chosen", cell.dataset.track === form.elements.track.value));
    light(null);
    enter(visible()[0]);
  };

  // One line of the page is reached by Tab; arrow keys move on from there.
  const enter = (line) => {
    all('.line[tabindex="0"]').forEach((each) => { each.tabIndex = -1; });
    if (line) line.tabIndex = 0;
  };

  const step = (line, key) => {
    const cell = line.closest(".cell");
    if (key === "ArrowUp" || key === "ArrowDown") {
      const column = visible().filter((each) => each.closest(".cell").dataset.track === cell.dataset.track);
      return column[column.indexOf(line) + (key === "ArrowDown" ? 1 : -1)];
    }
    const tracks = Object.keys(NAMES);
    const wanted = tracks[tracks.indexOf(cell.dataset.track) + (key === "ArrowRight" ? 1 : -1)];
    const beside = cell.parentElement.querySelector(`.cell[data-track="${wanted}"] .line`);
    return [beside, ...ids(line, "twins").flatMap(named)].find((each) => each?.offsetParent && each.closest(".cell").dataset.track === wanted);
  };

  document.addEventListener("keydown", (event) => {
    const line = document.activeElement.closest?.(".line");
    if (!line || !event.key.startsWith("Arrow") || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    step(line, event.key)?.focus();
  });
  document.addEventListener("focusin", ({ target }) => {
    const line = target.closest?.(".line");
    if (line) { light(line); enter(line); }
  });
  document.addEventListener("pointerover", ({ target, pointerType }) => {
    const line = pointerType === "mouse" && target.closest?.(".line");
    if (line) light(line);
  });
  form.addEventListener("change", ({ target }) => {
    const topic = sections.find((each) => !each.hidden).id;
    if (target.name === "view") history.replaceState(null, "", `#${topic}/${target.value}`);
    show();
  });
  addEventListener("hashchange", () => { show(); scrollTo(0, 0); });
  show();
  root.dataset.ready = "yes";
})();
