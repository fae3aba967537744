// Asks for a name as node's programs do, by libc and by name servers, and prints what both know of it.
const { lookup, lookupService, resolve4, resolve6, resolveTxt, reverse } = require("dns").promises
const said = question => question.catch(error => error.code)
const [name] = process.argv.slice(2)
;(async () => {
  const all = await lookup(name, { all: true })
  const [alias, address] = [await resolve4(name), await resolve6(name)]
  console.log(JSON.stringify({
    all, alias, address,
    back: [await reverse(alias[0]), await reverse(address[0]), (await lookupService(alias[0], 80)).hostname],
    many: (await Promise.all(Array.from({ length: 50 }, () => resolve4(name)))).flat(),
    no: [await said(resolveTxt(name)), await said(resolve4("www.example.com")), await said(lookup("www.example.com")),
         await said(reverse("93.184.216.34"))],
  }))
})()
