/* What the cases are written with. A case does one thing with sockets and says what came of it, in words that are the same
 * wherever it runs: results, errors by name, events, and addresses as roles. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Longer than anything takes that comes at all. */
enum { LONG = 8000 };
/* Long enough for what could come wrongly. */
enum { SHORT = 200 };

/* The services of the other side, in the order of the arguments. */
enum service {
    ECHO,    /* sends back what comes, and ends when its visitor does */
    CLOSING, /* closes at once */
    RESET,   /* resets at once */
    HALF,    /* says "hello!", ends its half, and reads on */
    COUNT,   /* reads to the end, then says how much it was and what it adds up to */
    SLOW,    /* says "0123456789", a byte at a time */
    MUTE,    /* takes a connection and neither reads nor writes */
    STUCK,   /* its queue is full: it takes nobody */
    REFUSED, /* nobody listens */
    ABSENT,  /* nobody ever did: the port was not even published */
    DATAGRAMS, /* of UDP: sends back what comes */
    LATE,    /* as STUCK until it is told to go on, then as ECHO; there are several */
    SERVICES = LATE + 8
};

struct place {
    struct sockaddr_storage address;
    socklen_t length;
};

extern char **itself;

void add_case(const char *name, void (*run)(void));
#define CASE(name)                                                                                                          \
    static void name(void);                                                                                                 \
    __attribute__((constructor)) static void add_##name(void) { add_case(#name, name); }                                    \
    static void name(void)

/* Adds to what the case says. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says the result of a call, or its error; gives the result back. */
long told(const char *what, long result);
/* Says poll's events. */
void events(const char *what, unsigned found);

/* `family` is 4, 6, or 46 for an alias that is mapped into IPv6. */
struct place place_of(int family, enum service service);
int stream(int family);
int nonblocking(int family);
/* Says nothing if all is well. */
int connected(int family, enum service service);
int go(int s, struct place to);
/* Waits and says what it found. */
unsigned wait_for(int s, short events_wanted, int patience);
/* The same, until this is among what it found: the rest of a reset may come a moment later. */
void wait_for_event(int s, short wanted, unsigned event);
int socket_error(int s);
/* Says who is at both ends. */
void peer(int s);
void self(int s);
void say_place(const char *what, const struct sockaddr_storage *address, socklen_t length);
/* Sends a word and says whether it came back. */
void echo(int s);
/* Lets a late service go on. */
void release(enum service late);
/* Reads to the end or to an error, and says what came. */
void read_all(int s);
/* A server of the program itself: any port of this address. */
int server(int type, const char *address, struct place *at);
int port_of(struct place *at);
/* The child runs `run` and ends; what it says is kept. */
void in_child(void (*run)(int), int s);
void *shared(size_t size);
