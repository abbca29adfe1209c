"use strict";
const $ = (id) => document.getElementById(id);

async function call(url, options = {}) {
  const headers = {"content-type": "application/json"};
  if ($("key").value) headers.authorization = "Bearer " + $("key").value;
  const response = await fetch(url, {...options, headers});
  if (response.status === 401) { $("key-box").hidden = false; $("key").focus(); }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error ? body.error.message : "HTTP " + response.status);
  return body;
}

function stats(box, before, after, seconds) {
  const share = before ? after / before : 1;
  const shown = {
    before: before.toLocaleString(), after: after.toLocaleString(), saved: Math.round(100 * (1 - share)) + " %",
    time: (1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0) + " ms",
  };
  for (const name in shown) box.querySelector("." + name).textContent = shown[name];
  box.querySelector(".meter i").style.width = 100 * share + "%";
}

function addGroup(select, title, options) {
  if (!options.length) return;
  const group = document.createElement("optgroup");
  group.label = title;
  group.append(...options);
  select.append(group);
}

function failed(box, error) {
  const message = document.createElement("div");
  message.className = "empty error";
  message.textContent = error.message;
  box.replaceChildren(message);
}

for (const box of document.querySelectorAll(".result")) box.prepend($("stats").content.cloneNode(true));
