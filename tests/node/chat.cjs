// A chat client for the interoperability tests: node chat.cjs URL ROOM USER [--deflate]
// Commands come as JSON lines on stdin: {"say": text}, {"close": code}. What happens goes out as JSON lines.
"use strict";

const readline = require("node:readline");
const WebSocket = require("ws");

const [url, room, user, flag] = process.argv.slice(2);
const print = (event) => process.stdout.write(JSON.stringify(event) + "\n");
const socket = new WebSocket(`${url}/ws/${room}?username=${user}`, { perMessageDeflate: flag === "--deflate" });

socket.on("open", () => print({ open: socket.extensions }));
socket.on("message", (data, isBinary) => print({ message: JSON.parse(data), binary: isBinary }));
socket.on("close", (code, reason) => {
  print({ closed: [code, reason.toString()] });
  lines.close();
});
socket.on("error", (error) => print({ error: String(error) }));

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const command = JSON.parse(line);
  if ("say" in command) socket.send(command.say);
  if ("ping" in command) socket.ping(command.ping, true, () => {});
  if ("close" in command) socket.close(command.close);
});
socket.on("pong", (data) => print({ pong: data.toString() }));
