// Solves the puzzle of a busy hour (ALTCHA version 2) and sends the form. Whoever does not run
// this script has a button there.
"use strict";
const form = document.getElementById("puzzle");
const bar = form.querySelector("progress");
const challenge = JSON.parse(form.dataset.challenge);
const parameters = challenge.parameters;
const AT_ONCE = 8;

const octets = hex => Uint8Array.from(hex.match(/../g), pair => parseInt(pair, 16));
const hex = octets => Array.from(octets, octet => octet.toString(16).padStart(2, "0")).join("");
const nonce = octets(parameters.nonce);
const salt = octets(parameters.salt);

async function guess(counter) {
  const password = new Uint8Array(nonce.length + 4);
  password.set(nonce);
  new DataView(password.buffer).setUint32(nonce.length, counter);
  const key = await crypto.subtle.importKey("raw", password, "PBKDF2", false, ["deriveBits"]);
  const how = { name: "PBKDF2", hash: "SHA-256", salt, iterations: parameters.cost };
  const derivedKey = hex(new Uint8Array(
    await crypto.subtle.deriveBits(how, key, parameters.keyLength * 8)));
  return derivedKey.startsWith(parameters.keyPrefix) ? { counter, derivedKey } : null;
}

async function solve() {
  for (let first = 0; first <= bar.max; first += AT_ONCE) {
    const counters = Array.from({ length: AT_ONCE }, (_, index) => first + index);
    const solution = (await Promise.all(counters.map(guess))).find(found => found);
    if (solution) {
      form.elements.solution.value = btoa(JSON.stringify({ challenge, solution }));
      form.submit();
      return;
    }
    bar.value = first;
  }
}

if (globalThis.crypto?.subtle) {  // not there without HTTPS
  document.getElementById("computing").hidden = false;
  solve();
}
