// Serves the files of a folder at a port, and says back what it is sent: at /echo, and by UDP.
package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	http.Handle("/", http.FileServer(http.Dir(os.Args[2])))
	http.HandleFunc("/echo", func(answer http.ResponseWriter, asked *http.Request) {
		body, err := io.ReadAll(asked.Body)
		if err != nil {
			log.Fatal(err)
		}
		answer.Write(body)
	})
	datagrams, err := net.ListenPacket("udp", ":"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	go echo(datagrams)
	log.Fatal(http.ListenAndServe(":"+os.Args[1], nil))
}

func echo(datagrams net.PacketConn) {
	part := make([]byte, 1<<16)
	for {
		length, from, err := datagrams.ReadFrom(part)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := datagrams.WriteTo(part[:length], from); err != nil {
			log.Fatal(err)
		}
	}
}
