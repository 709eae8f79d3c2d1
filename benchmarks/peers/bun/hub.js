// A chat hub on Bun's own WebSockets and topics.
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, server) {
    const url = new URL(request.url);
    const room = url.pathname.slice("/ws/".length);
    const username = url.searchParams.get("username");
    if (!server.upgrade(request, { data: { room, username } })) return new Response("", { status: 400 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 960,
    open(socket) {
      socket.subscribe(socket.data.room);
    },
    message(socket, content) {
      const { room, username } = socket.data;
      server.publish(room, JSON.stringify({ type: "chat", content, room, username }));
    },
  },
});
console.log(`listening on ws://127.0.0.1:${server.port}`);
