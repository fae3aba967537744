// Serves the files of a folder at a port, and says back at /echo what it is sent.
package main

import (
	"io"
	"log"
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
	log.Fatal(http.ListenAndServe(":"+os.Args[1], nil))
}
