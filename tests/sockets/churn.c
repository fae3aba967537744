/* Connects from many threads, with everything that can come between: closes at any moment, duplicates, forks, signals, and
 * sockets that are handed to other threads under way. Every echo is checked, and no descriptor may be left.
 *
 *   churn HOST4 HOST6 ECHO CLOSING REFUSED STUCK COUNT THREADS SIGNALS      says `warm` and `done`, each time waiting for a line */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_THREADS = 256, PATIENCE = 30000, SLOTS = 32 };
enum { ECHO, CLOSING, REFUSED, STUCK, SERVICES };

static struct sockaddr_in v4;
static struct sockaddr_in6 v6;
static int ports[SERVICES];
static atomic_long left;
static atomic_int wrong, finished;
static atomic_int slots[SLOTS];
static atomic_long echoed, refused, interrupted, not_begun, forked, abandoned;

/* Of one thread: its place in the row of random numbers. */
static unsigned of(unsigned *state, unsigned bound) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state % bound;
}

static void fail(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, error ? strerror(error) : "wrong");
    wrong++;
}

/* A call that a signal has kept from beginning, which no signal does elsewhere, is made again. */
#define AGAIN(call) ({ long result; while ((result = (call)) < 0 && errno == EINTR) not_begun++; result; })

/* Whether a socket is as if nobody had connected it: neither on its way, nor connected, nor refused. */
static int is_new(int s) {
    struct tcp_info info;
    socklen_t length = sizeof info;
    struct pollfd asked = {s, POLLOUT, 0};
    return !getsockopt(s, IPPROTO_TCP, TCP_INFO, &info, &length) && info.tcpi_state == TCP_CLOSE && poll(&asked, 1, 0) == 1 &&
           !(asked.revents & POLLERR);
}

static int begin(int family, int service, int flags, int *error) {
    int s = AGAIN(socket(family, SOCK_STREAM | flags, 0)), port = htons(ports[service]);
    struct sockaddr_in to4 = v4;
    struct sockaddr_in6 to6 = v6;
    to4.sin_port = port;
    to6.sin6_port = port;
    if (s < 0) {
        fail("socket", errno);
        return s;
    }
    for (;;) {
        int failed = family == AF_INET ? connect(s, (void *)&to4, sizeof to4) : connect(s, (void *)&to6, sizeof to6);
        *error = failed ? errno : 0;
        if (*error != EINTR || !is_new(s)) break;
        not_begun++;
    }
    /* Nothing interrupts a connect that does not wait. */
    if (*error == EINTR && flags & SOCK_NONBLOCK) fail("a connect that does not wait", EINTR);
    return s;
}

/* What becomes of a connect that goes on by itself. */
static int outcome(int s, int by_epoll) {
    int error = ETIME, epoll = by_epoll ? epoll_create1(EPOLL_CLOEXEC) : -1, ready;
    socklen_t length = sizeof error;
    do {
        if (by_epoll) {
            struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
            epoll_ctl(epoll, EPOLL_CTL_ADD, s, &event);
            ready = epoll_wait(epoll, &event, 1, PATIENCE);
        } else {
            struct pollfd asked = {s, POLLOUT, 0};
            ready = poll(&asked, 1, PATIENCE);
        }
    } while (ready < 0 && errno == EINTR);
    if (by_epoll) close(epoll);
    if (ready == 1 && AGAIN(getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &length))) error = errno;
    return error;
}

static int waits_for_more(int s) {
    struct pollfd asked = {s, POLLIN, 0};
    int ready;
    while ((ready = poll(&asked, 1, PATIENCE)) < 0 && errno == EINTR) {}
    return ready == 1;
}

/* Says at which step something else came back than was sent, 0 if all is well. Also called in children, so it allocates nothing. */
static int echoes(int s, unsigned number) {
    unsigned char out[64], in[64];
    for (size_t i = 0; i < sizeof out; i++) out[i] = number * 31 + i;
    long sent;
    while ((sent = send(s, out, sizeof out, MSG_NOSIGNAL)) < 0 && errno == EINTR) {}
    if (sent != sizeof out) return 1;
    errno = 0;
    for (size_t have = 0; have < sizeof in;) {
        if (!waits_for_more(s)) return 2;
        long more = recv(s, in + have, sizeof in - have, 0);
        if (more < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (more <= 0) return 3;
        have += more;
    }
    return memcmp(in, out, sizeof in) ? 4 : 0;
}

static void in_a_child(int s, unsigned number) {
    pid_t child = fork();
    if (child == 0) _exit(echoes(s, number));
    int status;
    pid_t ended;
    while ((ended = waitpid(child, &status, 0)) < 0 && errno == EINTR) {}
    if (ended != child || status) fail("the echo of a child", 0);
    forked++;
}

static void visit(unsigned *state, unsigned number) {
    int family = of(state, 2) ? AF_INET : AF_INET6, waits = of(state, 2), error;
    int s = begin(family, ECHO, SOCK_CLOEXEC | (waits ? 0 : SOCK_NONBLOCK), &error);
    if (s < 0) return;
    if (error == EINTR) interrupted++;
    if (error == EINPROGRESS || error == EINTR) error = outcome(s, of(state, 2));
    if (error) fail("connect", error);
    else switch (of(state, 8)) {
        case 0: { /* The first number goes, the socket stays. */
            int other = dup(s);
            close(s);
            s = other;
            break;
        }
        case 1:
            in_a_child(s, number);
            break;
        case 2: { /* A duplicate goes, before and after. */
            int other = fcntl(s, F_DUPFD_CLOEXEC, 0);
            close(other);
            break;
        }
    }
    if (!error) {
        static const char *const steps[] = {"", "to send", "to wait for the echo", "to receive", "what came back"};
        int step = echoes(s, number);
        if (step) fail(steps[step], step == 4 ? 0 : errno);
        echoed++;
    }
    close(s);
}

static void be_refused(unsigned *state) {
    int waits = of(state, 2), error;
    int s = begin(of(state, 2) ? AF_INET : AF_INET6, REFUSED, waits ? 0 : SOCK_NONBLOCK, &error);
    if (s < 0) return;
    if (error == EINTR) interrupted++;
    if (error == EINPROGRESS || error == EINTR) error = outcome(s, of(state, 2));
    if (error != ECONNREFUSED) fail("a refused connect", error);
    refused++;
    close(s);
}

/* A socket that somebody else will close, at whatever moment. */
static void abandon(unsigned *state) {
    int error, service = of(state, 3) ? of(state, 2) ? ECHO : CLOSING : STUCK;
    int s = begin(of(state, 2) ? AF_INET : AF_INET6, service, SOCK_NONBLOCK, &error);
    if (s < 0) return;
    if (error && error != EINPROGRESS) fail("a connect that does not wait", error);
    int before = atomic_exchange(&slots[of(state, SLOTS)], s);
    if (before > 0) close(before);
    abandoned++;
}

static void close_at_once(unsigned *state) {
    int error, s = begin(of(state, 2) ? AF_INET : AF_INET6, of(state, 2) ? ECHO : CLOSING, SOCK_NONBLOCK, &error);
    if (s >= 0) close(s);
}

static void *work(void *seed) {
    unsigned state = (long)seed * 2654435761u | 1;
    long number;
    while ((number = atomic_fetch_sub(&left, 1)) > 0) {
        unsigned what = of(&state, 16);
        if (what < 9) visit(&state, number);
        else if (what < 12) be_refused(&state);
        else if (what < 15) abandon(&state);
        else close_at_once(&state);
    }
    finished++;
    return NULL;
}

static int descriptors(void) {
    DIR *all = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(all)) count++;
    closedir(all);
    return count;
}

static void interrupt(int number) { (void)number; }

static void churn(long total, long threads, long signals) {
    pthread_t running[MOST_THREADS];
    unsigned state = 77;
    left = total;
    finished = 0;
    for (long i = 0; i < threads; i++)
        if (pthread_create(&running[i], NULL, work, (void *)(i + 1))) exit(3);
    while (signals && finished < threads) {
        pthread_kill(running[of(&state, threads)], SIGUSR1);
        usleep(500);
    }
    for (long i = 0; i < threads; i++) pthread_join(running[i], NULL);
    for (int i = 0; i < SLOTS; i++) {
        if (slots[i] > 0) close(slots[i]);
        slots[i] = 0;
    }
}

static void meet(const char *word) {
    char line[8];
    printf("%s\n", word);
    fflush(stdout);
    if (read(0, line, sizeof line) < 0) exit(4);
}

static int find(const char *host, int family, void *place) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = family}, *found;
    if (getaddrinfo(host, NULL, &hints, &found)) return 0;
    memcpy(place, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return 1;
}

int main(int count, char **arguments) {
    if (count != 10 || !find(arguments[1], AF_INET, &v4) || !find(arguments[2], AF_INET6, &v6)) return 2;
    for (int i = 0; i < SERVICES; i++) ports[i] = atoi(arguments[3 + i]);
    long total = atol(arguments[7]), threads = atol(arguments[8]), signals = atol(arguments[9]);
    if (threads > MOST_THREADS) return 2;
    struct sigaction action = {.sa_handler = interrupt};
    sigaction(SIGUSR1, &action, NULL);
    int before = descriptors();
    /* What whoever watches us keeps for itself, it has after some. */
    churn(total / 4, threads, signals);
    meet("warm");
    churn(total, threads, signals);
    if (descriptors() != before) fail("descriptors are left", 0);
    fprintf(stderr, "%ld connects: %ld echoed, %ld refused, %ld interrupted, %ld in children, %ld abandoned; %ld calls not begun\n",
            total + total / 4, echoed, refused, interrupted, forked, abandoned, not_begun);
    meet("done");
    return wrong != 0;
}
