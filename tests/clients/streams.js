// Fetches a page fifty times at once over one connection of HTTP/2, and prints what all of them are.
const { createHash } = require("crypto")
const session = require("http2").connect(process.argv[2])
const fetched = number => new Promise((done, failed) => {
  const hash = createHash("sha256"), stream = session.request({ ":path": `${process.argv[3]}?${number}` })
  stream.on("data", part => hash.update(part)).on("end", () => done(hash.digest("hex"))).on("error", failed)
})
Promise.all(Array.from({ length: 50 }, (_, number) => fetched(number)))
  .then(hashes => console.log([...new Set(hashes)].join()), error => { console.log(error.code); process.exitCode = 4 })
  .finally(() => session.close())
