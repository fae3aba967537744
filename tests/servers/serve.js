// Serves the files of a folder at a port by HTTP/2, and says back what it is sent: at /echo, and by UDP.
const { createReadStream } = require("fs")
const [port, folder] = process.argv.slice(2)
require("http2").createServer((asked, answer) => {
  const path = asked.url.split("?")[0]
  if (path === "/echo") asked.pipe(answer)
  else createReadStream(folder + path).on("error", () => answer.writeHead(404).end()).pipe(answer)
}).listen(port)
for (const type of ["udp4", "udp6"]) {
  const datagrams = require("dgram").createSocket({ type, ipv6Only: type === "udp6" })
  datagrams.on("message", (said, { port, address }) => datagrams.send(said, port, address)).bind(+port)
}
