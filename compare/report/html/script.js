"use strict";
// Draws the figures and listens to the buttons. What a figure shows comes from Python; here is how it meets the screen.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const fine = matchMedia("(pointer: fine)").matches; // a finger scrolls the page, a mouse may mark what to enlarge
  const line = "rgba(128, 128, 128, 0.22)";
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, fixedrange: !fine };
  const spike = { spikethickness: 1, spikedash: "solid", spikecolor: "#777777" }; // where the pointer is

  const layout = (figure) => {
    const bars = figure.traces.some((trace) => trace.type === "bar");
    const own = figure.layout;
    const common = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "inherit", size: 13 },
      margin: { l: 48, r: 12, t: 6, b: 44 },
      showlegend: false,
      hovermode: "x unified",
      dragmode: fine ? "zoom" : false,
    };
    const x = { ...axis, ...spike, ...own.xaxis, title: { standoff: 10, ...own.xaxis.title } };
    const y = { ...axis, exponentformat: "power", ...own.yaxis, showgrid: !bars };
    return { ...common, ...own, xaxis: x, yaxis: y };
  };

  const draw = async (id, figure) => {
    const place = document.getElementById(id);
    place.classList.toggle("bars", figure.traces.some((trace) => trace.type === "bar"));
    const traces = figure.traces.map(({ choices, tracks, ...trace }) => trace);
    await Plotly.newPlot(place, traces, layout(figure), { displayModeBar: false, responsive: true });
    place.dataset.drawn = traces.length;
  };

  // The figures of the section that a form stands in, as [element, figure].
  const below = (form) =>
    [...form.closest("section").querySelectorAll(".plot")].map((place) => [place, figures[place.id]]);

  const choose = (form, choice) => {
    for (const [place, figure] of below(form)) {
      if (figure.control !== form.dataset.control) continue;
      const x = figure.traces.map((trace) => trace.choices[choice]);
      Plotly.update(place, { x }, { "xaxis.title.text": figure.titles[choice], "xaxis.autorange": true });
    }
  };

  const show = (form) => {
    const chosen = new Set([...form.querySelectorAll("[name=track]:checked")].map((box) => box.value));
    for (const [place, figure] of below(form)) {
      const visible = figure.traces.map(({ tracks = [] }) => tracks.every((track) => chosen.has(track)));
      Plotly.restyle(place, { visible });
    }
  };

  for (const form of document.querySelectorAll("form.controls")) {
    form.addEventListener("change", ({ target }) => (target.name === "track" ? show(form) : choose(form, target.value)));
  }

  // Paper is narrower than a screen, and nothing tells Plotly.
  const resize = (size) => Object.keys(figures).forEach((id) => Plotly.relayout(id, size(document.getElementById(id))));
  addEventListener("beforeprint", () => resize((place) => ({ width: 320, height: place.clientHeight })));
  addEventListener("afterprint", () => resize(() => ({ width: null, height: null, autosize: true })));

  (async () => {
    for (const [id, figure] of Object.entries(figures)) await draw(id, figure);
    document.documentElement.dataset.ready = "yes";
  })();
})();
