// Serves the files of a folder at a port by HTTP/2, and says back at /echo what it is sent.
const { createReadStream } = require("fs")
const [port, folder] = process.argv.slice(2)
require("http2").createServer((asked, answer) => {
  const path = asked.url.split("?")[0]
  if (path === "/echo") asked.pipe(answer)
  else createReadStream(folder + path).on("error", () => answer.writeHead(404).end()).pipe(answer)
}).listen(port)
