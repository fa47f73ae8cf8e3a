// Shows a request's progress as it goes on. Without this script the page loads itself anew.
"use strict";
const place = document.getElementById("progress");
const source = new EventSource(place.dataset.events);
source.addEventListener("progress", event => { place.innerHTML = event.data; });
source.addEventListener("end", () => source.close());
