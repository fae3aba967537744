// Fetches a page as Go programs do, then once more by bare system calls, and prints both hashes.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
)

func main() {
	host, port, path := os.Args[1], os.Args[2], os.Args[3]
	answer, err := http.Get("http://" + net.JoinHostPort(host, port) + path)
	stop(err)
	page, err := io.ReadAll(answer.Body)
	stop(err)
	fmt.Printf("%x %d\n", sha256.Sum256(page), answer.StatusCode)

	place, err := net.ResolveTCPAddr("tcp4", net.JoinHostPort(host, port))
	stop(err)
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	stop(err)
	to := syscall.SockaddrInet4{Port: place.Port}
	copy(to.Addr[:], place.IP.To4())
	stop(syscall.Connect(socket, &to))
	_, err = syscall.Write(socket, []byte("GET "+path+" HTTP/1.0\r\nHost: x\r\n\r\n"))
	stop(err)
	var got []byte
	part := make([]byte, 1<<16)
	for {
		length, err := syscall.Read(socket, part)
		stop(err)
		if length == 0 {
			break
		}
		got = append(got, part[:length]...)
	}
	_, body, _ := bytes.Cut(got, []byte("\r\n\r\n"))
	fmt.Printf("%x\n", sha256.Sum256(body))
}

func stop(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
