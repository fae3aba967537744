// As ways.c, in Go: by its library, which asks for no libc, and by bare system calls.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	outside, word := os.Args[1], os.Args[2]
	dial := func(network string, port int) error {
		connection, err := net.DialTimeout(network, net.JoinHostPort(outside, strconv.Itoa(port)), time.Second)
		if err == nil {
			_, err = connection.Write([]byte(word))
		}
		return err
	}
	tell("go_tcp", dial("tcp", 4100))
	tell("go_udp", dial("udp", 4101))
	tell("go_bare_tcp", bare(outside, 4102, syscall.SOCK_STREAM, word))
	tell("go_bare_udp", bare(outside, 4103, syscall.SOCK_DGRAM, word))
	var err error
	raised := make(chan error)
	for i := 0; i < 4; i++ {
		go func() { raised <- dial("udp", 4104) }()
	}
	for i := 0; i < 4; i++ {
		err = <-raised
	}
	tell("go_goroutine", err)
	_, err = net.LookupHost(word)
	tell("go_name", err)
}

func bare(outside string, port int, kind int, word string) error {
	address := net.ParseIP(outside)
	var to syscall.Sockaddr
	family := syscall.AF_INET6
	if v4 := address.To4(); v4 != nil {
		to4 := syscall.SockaddrInet4{Port: port}
		copy(to4.Addr[:], v4)
		family, to = syscall.AF_INET, &to4
	} else {
		to6 := syscall.SockaddrInet6{Port: port}
		copy(to6.Addr[:], address)
		to = &to6
	}
	socket, err := syscall.Socket(family, kind|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if kind == syscall.SOCK_DGRAM {
		return syscall.Sendto(socket, []byte(word), 0, to)
	}
	return syscall.Connect(socket, to)
}

func tell(way string, err error) {
	var number syscall.Errno
	var unknown *net.DNSError
	switch {
	case err == nil:
	case errors.As(err, &unknown):
		number = syscall.ENOENT
	case !errors.As(err, &number):
		number = syscall.ETIME
	}
	fmt.Println(way, int(number))
}
