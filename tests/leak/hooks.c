/* Everything that the preload library stands before, called as programs do. Called with a name of the network whose port 80 is
 * a web server and whose port 81 nobody has. Prints a line for each: what was called, and "ok" or what was wrong. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <resolv.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wordexp.h>

static const char *host, *itself;
static char alias[INET_ADDRSTRLEN], address[INET6_ADDRSTRLEN];
static struct sockaddr_in v4 = {.sin_family = AF_INET};
static struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
static int wrong;

/* Says how it went, and that a success has left errno alone. */
static void told(const char *what, int is_right, const char *format, ...) {
    char text[512] = "";
    va_list given;
    va_start(given, format);
    vsnprintf(text, sizeof text, format, given);
    va_end(given);
    printf("%s %s%s\n", what, is_right ? "ok" : "WRONG ", is_right ? "" : text);
    fflush(stdout);
    wrong += !is_right;
}

#define UNTOUCHED 1234
#define RIGHT(what, test) do { errno = UNTOUCHED; int is_right = (test); told(what, is_right, "line %d: %s, errno %d", __LINE__, #test, errno); } while (0)
#define KEEPS(what, test) do { errno = UNTOUCHED; int is_right = (test); told(what, is_right && errno == UNTOUCHED, "line %d: %s, errno %d", __LINE__, #test, errno); } while (0)
#define FAILS(what, with, call) do { errno = 0; long got = (long)(call); told(what, got == -1 && errno == (with), "line %d: %s gave %ld, errno %d", __LINE__, #call, got, errno); } while (0)

static struct sockaddr *to4(int port) { v4.sin_port = htons(port); return (struct sockaddr *)&v4; }
static struct sockaddr *to6(int port) { v6.sin6_port = htons(port); return (struct sockaddr *)&v6; }

static struct sockaddr *outside(int port) {
    static struct sockaddr_in place = {.sin_family = AF_INET};
    inet_pton(AF_INET, "93.184.216.34", &place.sin_addr);
    place.sin_port = htons(port);
    return (struct sockaddr *)&place;
}

/* --- names */

static int has_both(struct addrinfo *list) {
    int seen = 0;
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        char text[INET6_ADDRSTRLEN] = "";
        if (a->ai_family == AF_INET) {
            inet_ntop(AF_INET, &((struct sockaddr_in *)a->ai_addr)->sin_addr, text, sizeof text);
            seen |= !strcmp(text, alias) && a->ai_addrlen == sizeof v4 ? 1 : 4;
        } else {
            inet_ntop(AF_INET6, &((struct sockaddr_in6 *)a->ai_addr)->sin6_addr, text, sizeof text);
            seen |= !strcmp(text, address) && a->ai_addrlen == sizeof v6 ? 2 : 4;
        }
    }
    return seen == 3;
}

static volatile sig_atomic_t signalled;
static void on_signal(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    if (info->si_value.sival_int == 77) signalled = 1;
}

static int pipe_of_thread[2];
static void on_thread(union sigval value) {
    if (write(pipe_of_thread[1], value.sival_ptr, 1) != 1) abort();
}

static void names_in_advance(void) {
    struct gaicb one = {.ar_name = host, .ar_service = "http"}, two = {.ar_name = "www.example.com"};
    struct gaicb *list[] = {&one, NULL, &two};
    struct sigevent how = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value = {.sival_int = 77}};
    struct sigaction act = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    RIGHT("getaddrinfo_a", !getaddrinfo_a(GAI_WAIT, list, 3, NULL) && !gai_error(&one) && has_both(one.ar_result) && gai_error(&two) == EAI_NONAME);
    freeaddrinfo(one.ar_result);
    sigaction(SIGUSR1, &act, NULL);
    RIGHT("getaddrinfo_a", !getaddrinfo_a(GAI_NOWAIT, list, 1, &how) && gai_suspend((void *)list, 1, NULL) == EAI_ALLDONE && !gai_error(&one));
    RIGHT("getaddrinfo_a", signalled == 1 && has_both(one.ar_result) && gai_cancel(&one) == EAI_ALLDONE);
    freeaddrinfo(one.ar_result);
    static char byte = 'x';
    if (pipe(pipe_of_thread)) abort();
    struct sigevent by_thread = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_thread, .sigev_value = {.sival_ptr = &byte}};
    RIGHT("getaddrinfo_a", !getaddrinfo_a(GAI_NOWAIT, list, 1, &by_thread) && read(pipe_of_thread[0], &byte, 1) == 1 && byte == 'x');
    freeaddrinfo(one.ar_result);
}

static void names(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME}, *found;
    RIGHT("getaddrinfo", !getaddrinfo(host, "80", &hints, &found) && !strcmp(found->ai_canonname, host));
    for (struct addrinfo *a = found; a; a = a->ai_next) {
        if (a->ai_family == AF_INET) v4.sin_addr = ((struct sockaddr_in *)a->ai_addr)->sin_addr;
        else v6.sin6_addr = ((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
    }
    inet_ntop(AF_INET, &v4.sin_addr, alias, sizeof alias);
    inet_ntop(AF_INET6, &v6.sin6_addr, address, sizeof address);
    RIGHT("getaddrinfo", !strncmp(alias, "127.", 4) && !strncmp(address, "fc", 2) && has_both(found));
    freeaddrinfo(found);
    KEEPS("getaddrinfo", !getaddrinfo(host, NULL, NULL, &found) && has_both(found));
    freeaddrinfo(found);
    hints = (struct addrinfo){.ai_family = AF_INET6, .ai_flags = AI_V4MAPPED | AI_ALL};
    RIGHT("getaddrinfo", !getaddrinfo("127.0.0.1", "http", &hints, &found) && found->ai_family == AF_INET6);
    freeaddrinfo(found);
    RIGHT("getaddrinfo", getaddrinfo("www.example.com", "80", NULL, &found) == EAI_NONAME);
    RIGHT("getaddrinfo", getaddrinfo("nobody.ap", "80", NULL, &found) == EAI_NONAME);
    RIGHT("getaddrinfo", !getaddrinfo("localhost", "80", NULL, &found));
    freeaddrinfo(found);
    names_in_advance();

    struct hostent *known = gethostbyname(host), space, *same;
    RIGHT("gethostbyname", known && known->h_addrtype == AF_INET && !memcmp(known->h_addr_list[0], &v4.sin_addr, 4) && !known->h_addr_list[1] && !strcmp(known->h_name, host));
    known = gethostbyname2(host, AF_INET6);
    RIGHT("gethostbyname2", known && known->h_length == 16 && !memcmp(known->h_addr_list[0], &v6.sin6_addr, 16));
    RIGHT("gethostbyname", !gethostbyname("www.example.com") && h_errno == HOST_NOT_FOUND);
    known = gethostbyaddr(&v4.sin_addr, 4, AF_INET);
    RIGHT("gethostbyaddr", known && !strcmp(known->h_name, host));
    char room[512], small[8];
    int error;
    RIGHT("gethostbyname_r", !gethostbyname_r(host, &space, room, sizeof room, &same, &error) && same == &space && !strcmp(space.h_name, host));
    RIGHT("gethostbyname_r", gethostbyname_r(host, &space, small, sizeof small, &same, &error) == ERANGE && !same);
    RIGHT("gethostbyname2_r", !gethostbyname2_r(host, AF_INET6, &space, room, sizeof room, &same, &error) && same == &space);
    RIGHT("gethostbyname2_r", !gethostbyname2_r("example.com", AF_INET6, &space, room, sizeof room, &same, &error) && !same && error == HOST_NOT_FOUND);
    RIGHT("gethostbyaddr_r", !gethostbyaddr_r(&v6.sin6_addr, 16, AF_INET6, &space, room, sizeof room, &same, &error) && same && !strcmp(space.h_name, host));

    char name[256], service[32];
    RIGHT("getnameinfo", !getnameinfo(to6(80), sizeof v6, name, sizeof name, service, sizeof service, NI_NAMEREQD) && !strcmp(name, host) && !strcmp(service, "http"));
    RIGHT("getnameinfo", !getnameinfo(to4(80), sizeof v4, name, sizeof name, service, sizeof service, NI_NUMERICHOST | NI_NUMERICSERV) && !strcmp(name, alias) && !strcmp(service, "80"));
    RIGHT("getnameinfo", getnameinfo(outside(80), sizeof v4, name, sizeof name, NULL, 0, NI_NAMEREQD) == EAI_NONAME);
    RIGHT("getnameinfo", getnameinfo(to4(80), sizeof v4, name, 3, NULL, 0, 0) == EAI_OVERFLOW);
}

/* Whether a message of DNS says the alias. */
static int says_alias(unsigned char *answer, int length) {
    ns_msg message;
    ns_rr record;
    if (length <= 0 || ns_initparse(answer, length, &message) || ns_msg_count(message, ns_s_an) != 1) return 0;
    return !ns_parserr(&message, ns_s_an, 0, &record) && ns_rr_rdlen(record) == 4 && !memcmp(ns_rr_rdata(record), &v4.sin_addr, 4);
}

static void questions(void) {
    unsigned char answer[1024], question[512];
    char label[64], *domain = strchr(host, '.') + 1;
    snprintf(label, sizeof label, "%.*s", (int)(domain - host - 1), host);
    struct __res_state state = {0};
    RIGHT("res_ninit", !res_ninit(&state) && !res_init());
#define ASKED(name, call) RIGHT(name, says_alias(answer, call))
    ASKED("res_query", res_query(host, C_IN, T_A, answer, sizeof answer));
    ASKED("res_search", res_search(host, C_IN, T_A, answer, sizeof answer));
    ASKED("res_querydomain", res_querydomain(label, domain, C_IN, T_A, answer, sizeof answer));
    ASKED("res_nquery", res_nquery(&state, host, C_IN, T_A, answer, sizeof answer));
    ASKED("res_nsearch", res_nsearch(&state, host, C_IN, T_A, answer, sizeof answer));
    ASKED("res_nquerydomain", res_nquerydomain(&state, label, domain, C_IN, T_A, answer, sizeof answer));
    int length = res_mkquery(QUERY, host, C_IN, T_A, NULL, 0, NULL, question, sizeof question);
    ASKED("res_send", res_send(question, length, answer, sizeof answer));
    ASKED("res_nsend", res_nsend(&state, question, length, answer, sizeof answer));
    /* Their other names. */
#define OLDER(name, kind, ...) ASKED(name, ((int (*)kind)dlsym(RTLD_DEFAULT, name))(__VA_ARGS__, answer, sizeof answer))
    OLDER("__res_query", (const char *, int, int, unsigned char *, int), host, C_IN, T_A);
    OLDER("__res_search", (const char *, int, int, unsigned char *, int), host, C_IN, T_A);
    OLDER("__res_querydomain", (const char *, const char *, int, int, unsigned char *, int), label, domain, C_IN, T_A);
    OLDER("__res_send", (const unsigned char *, int, unsigned char *, int), question, length);
    OLDER("__res_nquery", (void *, const char *, int, int, unsigned char *, int), &state, host, C_IN, T_A);
    OLDER("__res_nsearch", (void *, const char *, int, int, unsigned char *, int), &state, host, C_IN, T_A);
    OLDER("__res_nquerydomain", (void *, const char *, const char *, int, int, unsigned char *, int), &state, label, domain, C_IN, T_A);
    OLDER("__res_nsend", (void *, const unsigned char *, int, unsigned char *, int), &state, question, length);
    RIGHT("res_query", res_query("www.example.com", C_IN, T_A, answer, sizeof answer) == -1 && h_errno != NETDB_SUCCESS);
    RIGHT("res_query", res_query(host, C_IN, T_MX, answer, sizeof answer) == -1 && h_errno == NO_DATA);
    RIGHT("res_query", res_query(host, C_IN, T_AAAA, answer, 12) > 12);
    res_nclose(&state);
}

/* --- sockets */

/* Asks the web server for a page. */
static int answers(int s) {
    static const char request[] = "GET / HTTP/1.0\r\nHost: x\r\n\r\n";
    char status[13] = "";
    if (send(s, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request)) return 0;
    return recv(s, status, 12, MSG_WAITALL) == 12 && !strncmp(status, "HTTP/1.", 7) && !strcmp(status + 9, "200");
}

/* Where whoever is not root can write nothing into sockets, nobody knows. */
static int peers_are_known = 1;

static int peer_is(int s, int port) {
    if (!peers_are_known) return 1;
    struct sockaddr_storage peer, own;
    socklen_t length = sizeof peer, own_length = sizeof own;
    if (getpeername(s, (struct sockaddr *)&peer, &length) || getsockname(s, (struct sockaddr *)&own, &own_length)) return 0;
    if (own.ss_family != peer.ss_family) return 0;
    if (peer.ss_family == AF_INET) return length == sizeof v4 && !memcmp(&peer, to4(port), 8);
    return length == sizeof v6 && !memcmp(&((struct sockaddr_in6 *)&peer)->sin6_addr, &v6.sin6_addr, 16);
}

static int error_of(int s) {
    int error = -1;
    socklen_t length = sizeof error;
    return getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &length) || length != sizeof error ? -1 : error;
}

/* Connects without waiting. */
static int later(int family, struct sockaddr *to, socklen_t length, int *outcome) {
    int s = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_storage peer;
    socklen_t peer_length = sizeof peer;
    if (s < 0 || connect(s, to, length) != -1 || errno != EINPROGRESS) return -1;
    if (peers_are_known && (!getpeername(s, (struct sockaddr *)&peer, &peer_length) || errno != ENOTCONN)) {
        struct pollfd p = {s, POLLOUT, 0};
        if (poll(&p, 1, 0) == 0) return -1; /* else it was faster than we */
    }
    struct pollfd p = {s, POLLOUT, 0};
    if (poll(&p, 1, 20000) != 1) return -1;
    *outcome = error_of(s);
    fcntl(s, F_SETFL, fcntl(s, F_GETFL) & ~O_NONBLOCK);
    return s;
}

static void connections(void) {
    int s, outcome = -1;
    KEEPS("socket", (s = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
    KEEPS("connect", !connect(s, to4(80), sizeof v4));
    FAILS("connect", EISCONN, connect(s, to4(80), sizeof v4));
    KEEPS("getpeername", peer_is(s, 80));
    KEEPS("getsockopt", error_of(s) == 0);
    RIGHT("connect", answers(s));
    close(s);
    RIGHT("connect", !connect(s = socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP), to6(80), sizeof v6) && peer_is(s, 80) && answers(s));
    close(s);
    int (*older)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_DEFAULT, "__connect");
    RIGHT("__connect", !older(s = socket(AF_INET, SOCK_STREAM, 0), to4(80), sizeof v4) && answers(s));
    close(s);
    RIGHT("connect", (s = later(AF_INET, to4(80), sizeof v4, &outcome)) >= 0 && outcome == 0 && peer_is(s, 80) && answers(s));
    RIGHT("socket", fcntl(s, F_GETFD) == FD_CLOEXEC);
    close(s);
    RIGHT("connect", (s = later(AF_INET6, to6(81), sizeof v6, &outcome)) >= 0 && outcome == ECONNREFUSED);
    close(s);
    s = socket(AF_INET, SOCK_STREAM, 0);
    FAILS("connect", ECONNREFUSED, connect(s, to4(81), sizeof v4));
    FAILS("getpeername", ENOTCONN, getpeername(s, (struct sockaddr *)&(struct sockaddr_storage){0}, &(socklen_t){sizeof v6}));
    FAILS("connect", ENETUNREACH, connect(s, outside(80), sizeof v4));
    FAILS("connect", EINVAL, connect(s, to4(80), 1));
#ifndef WATCHED /* by something that looks at memory before the kernel does */
    FAILS("connect", EFAULT, connect(s, (void *)8, sizeof v4));
    FAILS("getpeername", EFAULT, getpeername(s, (void *)8, (void *)8));
    FAILS("bind", EFAULT, bind(s, (void *)8, sizeof v6));
#endif
    close(s);
    FAILS("connect", EBADF, connect(s, to4(80), sizeof v4));
    FAILS("connect", ENOTSOCK, connect(1 + dup(open("/dev/null", O_RDONLY)) - 1, to4(80), sizeof v4));
    FAILS("socket", EAFNOSUPPORT, socket(AF_PACKET, SOCK_RAW, 0));
    FAILS("socket", EPROTONOSUPPORT, socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
    FAILS("socket", EPERM, socket(AF_INET, SOCK_RAW, 253));
    int pair[2];
    KEEPS("socketpair", !socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    FAILS("socketpair", EAFNOSUPPORT, socketpair(AF_INET, SOCK_STREAM, 0, pair));
    /* The lowest number that is free, as the kernel promises. */
    int kept = dup(0);
    close(0);
    RIGHT("socket", socket(AF_INET, SOCK_STREAM, 0) == 0);
    dup2(kept, 0);
    s = socket(AF_INET, SOCK_STREAM, 0);
    /* Either there is no such device, or the socket has one already. */
    RIGHT("setsockopt", setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "out", 4) && (errno == EPERM || errno == ENODEV));
    KEEPS("setsockopt", !setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)));
    struct iovec part = {"x", 1};
    struct mmsghdr m = {.msg_hdr = {.msg_name = to4(80), .msg_namelen = sizeof v4, .msg_iov = &part, .msg_iovlen = 1}};
    FAILS("sendto", EOPNOTSUPP, sendto(s, "x", 1, MSG_FASTOPEN, to4(80), sizeof v4));
    FAILS("sendmsg", EOPNOTSUPP, sendmsg(s, &m.msg_hdr, MSG_FASTOPEN));
    FAILS("sendmmsg", EOPNOTSUPP, sendmmsg(s, &m, 1, MSG_FASTOPEN));
    close(s);
    KEEPS("sendto", sendto(pair[0], "ab", 2, 0, NULL, 0) == 2);
    m.msg_hdr.msg_name = NULL, m.msg_hdr.msg_namelen = 0;
    KEEPS("sendmsg", sendmsg(pair[0], &m.msg_hdr, 0) == 1);
    KEEPS("sendmmsg", sendmmsg(pair[0], &m, 1, 0) == 1);
    char got[4];
    RIGHT("sendto", recv(pair[1], got, 4, MSG_WAITALL) == 4 && !memcmp(got, "abxx", 4));
    close(pair[0]), close(pair[1]);
}

static void servers(int family) {
    struct sockaddr_storage own = {.ss_family = family}, peer, named;
    socklen_t length = family == AF_INET ? sizeof v4 : sizeof v6, peer_length = sizeof peer, named_length = sizeof named;
    if (family == AF_INET) ((struct sockaddr_in *)&own)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else ((struct sockaddr_in6 *)&own)->sin6_addr = in6addr_loopback;
    int server = socket(family, SOCK_STREAM, 0), client = socket(family, SOCK_STREAM, 0), visitor;
    KEEPS("bind", !bind(server, (struct sockaddr *)&own, length));
    KEEPS("listen", !listen(server, 5));
    KEEPS("getsockname", !getsockname(server, (struct sockaddr *)&own, &length));
    RIGHT("connect", !connect(client, (struct sockaddr *)&own, length));
    KEEPS("accept", (visitor = accept(server, (struct sockaddr *)&peer, &peer_length)) >= 0);
    RIGHT("getsockname", !getsockname(client, (struct sockaddr *)&named, &named_length) && peer_length == named_length && !memcmp(&named, &peer, 8));
    named_length = sizeof named;
    RIGHT("getpeername", !getpeername(client, (struct sockaddr *)&named, &named_length) && !memcmp(&named, &own, 8));
    RIGHT("accept", send(client, "x", 1, 0) == 1 && recv(visitor, &(char){0}, 1, 0) == 1);
    close(client), close(visitor);
    client = socket(family, SOCK_STREAM, 0);
    RIGHT("accept4", !connect(client, (struct sockaddr *)&own, length) && (visitor = accept4(server, NULL, NULL, SOCK_CLOEXEC)) >= 0);
    close(client), close(visitor), close(server);
    if (family == AF_INET6) {
        struct sockaddr_in6 scoped = {.sin6_family = AF_INET6, .sin6_scope_id = 2};
        inet_pton(AF_INET6, "fe80::2", &scoped.sin6_addr);
        server = socket(family, SOCK_STREAM, 0);
        FAILS("bind", EADDRNOTAVAIL, bind(server, (struct sockaddr *)&scoped, sizeof scoped));
        close(server);
    }
}

static void of_unix(void) {
    struct sockaddr_un own = {.sun_family = AF_UNIX, .sun_path = "own.sock"};
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    unlink(own.sun_path);
    KEEPS("bind", !bind(server, (struct sockaddr *)&own, sizeof own));
    KEEPS("listen", !listen(server, 5));
    KEEPS("connect", !connect(client, (struct sockaddr *)&own, sizeof own));
    strcpy(own.sun_path, "nobody.sock");
    close(client);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    FAILS("connect", ENOENT, connect(client, (struct sockaddr *)&own, sizeof own));
    close(client), close(server);
}

/* A name server, whichever: asked by UDP. */
static void datagrams(void) {
    unsigned char question[512], answer[512];
    int length = res_mkquery(QUERY, host, C_IN, T_A, NULL, 0, NULL, question, sizeof question), s;
    struct pollfd p = {.events = POLLIN};
    RIGHT("sendto", (p.fd = s = socket(AF_INET, SOCK_DGRAM, 0)) >= 0 && sendto(s, question, length, 0, outside(53), sizeof v4) == length);
    RIGHT("recvfrom", poll(&p, 1, 5000) == 1 && says_alias(answer, recvfrom(s, answer, sizeof answer, 0, NULL, NULL)));
    FAILS("sendto", ENETUNREACH, sendto(s, question, length, 0, outside(54), sizeof v4));
    struct iovec part = {question, length}, back = {answer, sizeof answer};
    struct mmsghdr m = {.msg_hdr = {.msg_name = outside(53), .msg_namelen = sizeof v4, .msg_iov = &part, .msg_iovlen = 1}};
    RIGHT("sendmsg", sendmsg(s, &m.msg_hdr, 0) == length && poll(&p, 1, 5000) == 1);
    struct msghdr heard = {.msg_iov = &back, .msg_iovlen = 1};
    RIGHT("recvmsg", says_alias(answer, recvmsg(s, &heard, 0)));
    RIGHT("sendmmsg", sendmmsg(s, &m, 1, 0) == 1 && poll(&p, 1, 5000) == 1);
    struct mmsghdr many = {.msg_hdr = heard};
    RIGHT("recvmmsg", recvmmsg(s, &many, 1, 0, NULL) == 1 && says_alias(answer, many.msg_len));
    RIGHT("connect", !connect(s, outside(53), sizeof v4) && send(s, question, length, 0) == length && poll(&p, 1, 5000) == 1 && says_alias(answer, recv(s, answer, sizeof answer, 0)));
    close(s);
}

static void by_number(void) {
    int s, error = -1, pair[2];
    socklen_t length = sizeof error;
    struct sockaddr_storage peer;
    KEEPS("syscall socket", (s = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0)) >= 0);
    FAILS("syscall sendto", EOPNOTSUPP, syscall(SYS_sendto, s, "x", 1L, MSG_FASTOPEN, to4(80), sizeof v4));
    FAILS("syscall sendmsg", EOPNOTSUPP, syscall(SYS_sendmsg, s, NULL, MSG_FASTOPEN));
    FAILS("syscall sendmmsg", EOPNOTSUPP, syscall(SYS_sendmmsg, s, NULL, 1, MSG_FASTOPEN));
    RIGHT("syscall setsockopt", syscall(SYS_setsockopt, s, SOL_SOCKET, SO_BINDTODEVICE, "out", 4) && (errno == EPERM || errno == ENODEV));
    KEEPS("syscall connect", !syscall(SYS_connect, s, to4(80), sizeof v4));
    KEEPS("syscall getsockopt", !syscall(SYS_getsockopt, s, SOL_SOCKET, SO_ERROR, &error, &length) && error == 0);
    length = sizeof peer;
    KEEPS("syscall getpeername", !syscall(SYS_getpeername, s, &peer, &length) && (!peers_are_known || !memcmp(&peer, to4(80), 8)));
    RIGHT("syscall connect", answers(s));
    close(s);
    s = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    FAILS("syscall connect", ENETUNREACH, syscall(SYS_connect, s, outside(80), sizeof v4));
    KEEPS("syscall bind", !syscall(SYS_bind, s, &(struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, sizeof v4));
    KEEPS("syscall listen", !syscall(SYS_listen, s, 1));
    close(s);
    KEEPS("syscall socketpair", !syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, pair));
    FAILS("syscall socketpair", EAFNOSUPPORT, syscall(SYS_socketpair, AF_TIPC, SOCK_STREAM, 0, pair));
    close(pair[0]), close(pair[1]);
    FAILS("syscall io_uring_setup", ENOSYS, syscall(SYS_io_uring_setup, 4, NULL));
    FAILS("syscall io_uring_enter", ENOSYS, syscall(SYS_io_uring_enter, 4, 0, 0, 0, NULL, 0L));
    FAILS("syscall io_uring_register", ENOSYS, syscall(SYS_io_uring_register, 4, 0, NULL, 0));
    FAILS("syscall pidfd_getfd", EPERM, syscall(SYS_pidfd_getfd, 4, 0, 0));
    KEEPS("syscall getppid", syscall(SYS_getppid) == getppid());
    /* Six arguments, the last of them on the stack. */
    void *page = (void *)syscall(SYS_mmap, NULL, 4096L, 3L, 0x22L, -1L, 0L);
    RIGHT("syscall mmap", page != (void *)-1 && *(volatile char *)page == 0);
    FAILS("syscall mmap", EBADF, syscall(SYS_mmap, NULL, 4096L, 3L, 2L, -1L, 4096L));
}

/* --- devices */

/* Where the run has an island, there is one, beside those that lead nowhere, and what it has is the run's own. */
static int leads_nowhere(const char *name) {
    return !strcmp(name, "phantom0") || !strcmp(name, "phantom1");
}

static void devices(void) {
    struct if_nameindex *names = if_nameindex();
    int strangers = 0;
    for (int at = 1; names && names[0].if_name && names[at].if_name; at++) strangers += !leads_nowhere(names[at].if_name);
    RIGHT("if_nameindex", names && names[0].if_index == 1 && !strcmp(names[0].if_name, "lo") && !strangers);
    if_freenameindex(names);
    char name[IF_NAMESIZE];
    KEEPS("if_nametoindex", if_nametoindex("lo") == 1);
    RIGHT("if_nametoindex", !if_nametoindex("out") && errno == ENODEV);
    RIGHT("if_nametoindex", !if_nametoindex("a name that no device can have") && errno == ENODEV);
    KEEPS("if_indextoname", if_indextoname(1, name) && !strcmp(name, "lo"));
    RIGHT("if_indextoname", !if_indextoname(77, name) && errno == ENXIO);
    struct ifaddrs *list = NULL;
    int others = 0, own = 0, here = 0;
    KEEPS("getifaddrs", !getifaddrs(&list) && list);
    for (struct ifaddrs *one = list; one; one = one->ifa_next) {
        if (leads_nowhere(one->ifa_name)) continue;
        others += strcmp(one->ifa_name, "lo") != 0;
        if (one->ifa_addr->sa_family == AF_INET) here += ((struct sockaddr_in *)one->ifa_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK);
        if (one->ifa_addr->sa_family == AF_INET6) own += ((struct sockaddr_in6 *)one->ifa_addr)->sin6_addr.s6_addr[0] == 0xfc;
    }
    RIGHT("getifaddrs", !others && own == 1 && here == 1);
    freeifaddrs(list);
}

/* --- what libc would do by itself */

static void of_old(void) {
    char *to = (char *)host;
    FAILS("rcmd", ENETUNREACH, rcmd(&to, htons(514), "a", "a", "a", NULL));
    FAILS("rcmd_af", ENETUNREACH, rcmd_af(&to, htons(514), "a", "a", "a", NULL, AF_INET6));
    FAILS("rexec", ENETUNREACH, rexec(&to, htons(512), "a", "a", "a", NULL));
    FAILS("rexec_af", ENETUNREACH, rexec_af(&to, htons(512), "a", "a", "a", NULL, AF_INET6));
    FAILS("ruserok", ENETUNREACH, ruserok(host, 0, "a", "a"));
    FAILS("ruserok_af", ENETUNREACH, ruserok_af(host, 0, "a", "a", AF_INET6));
    FAILS("iruserok", ENETUNREACH, iruserok(1, 0, "a", "a"));
    FAILS("iruserok_af", ENETUNREACH, iruserok_af(&v6.sin6_addr, 0, "a", "a", AF_INET6));
    RIGHT("getnetbyname", !getnetbyname("example") && h_errno == HOST_NOT_FOUND);
    RIGHT("getnetbyaddr", !getnetbyaddr(10, AF_INET) && h_errno == HOST_NOT_FOUND);
    struct netent space, *found = &space;
    char room[256];
    int error = 0;
    RIGHT("getnetbyname_r", !getnetbyname_r("example", &space, room, sizeof room, &found, &error) && !found && error == HOST_NOT_FOUND);
    RIGHT("getnetbyaddr_r", !getnetbyaddr_r(10, AF_INET, &space, room, sizeof room, &found, &error) && !found && error == HOST_NOT_FOUND);
    int (*take)(int, int, unsigned) = dlsym(RTLD_DEFAULT, "pidfd_getfd");
    FAILS("pidfd_getfd", EPERM, take(1, 0, 0));
}

/* --- programs that are started */

/* What a child does: its own socket is the run's, and leads nowhere else. All of its arguments must have come along. */
static int as_child(int count, char **arguments) {
    if (count != 9 || strcmp(arguments[8], "8")) return 3;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0 || !connect(s, outside(80), sizeof v4) || errno != ENETUNREACH) return 4;
    struct addrinfo *found;
    if (getaddrinfo(arguments[2], "80", NULL, &found)) return 5;
    int done = connect(s, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return done ? 6 : answers(s) ? 42 : 7;
}

static int ended_well(pid_t child) {
    int status;
    if (waitpid(child, &status, 0) != child) return 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 42) printf("(status %x) ", status);
    return WIFEXITED(status) && WEXITSTATUS(status) == 42;
}

#define GIVEN "child", (char *)host, "3", "4", "5", "6", "7", "8"
#define CHILD(name, start) do { pid_t child = fork(); if (child == 0) { start; _exit(1); } RIGHT(name, ended_well(child)); } while (0)

static void programs(void) {
    char *list[] = {(char *)itself, GIVEN, NULL}, *nothing[] = {NULL}, *other[] = {"A=1", "LD_PRELOAD=/nowhere.so", "PHANTOM_RUN_SOCKET=/nowhere", NULL};
    /* So many that they do not fit on a stack, and each unlike the others. */
    static char *many[2002], text[2000][12];
    for (int i = 0; i < 2000; i++) snprintf(many[i] = text[i], 12, "V%d=%d", i, i);
    pid_t child;
    CHILD("execve", execve(itself, list, nothing));
    CHILD("execve", execve(itself, list, NULL));
    CHILD("execve", execve(itself, list, other));
    CHILD("execve", execve(itself, list, many));
    CHILD("execv", (clearenv(), execv(itself, list)));
    CHILD("execvp", (clearenv(), execvp(itself, list)));
    CHILD("execvpe", execvpe(itself, list, nothing));
    CHILD("execl", (clearenv(), execl(itself, itself, GIVEN, NULL)));
    CHILD("execlp", (clearenv(), execlp(itself, itself, GIVEN, NULL)));
    CHILD("execle", execle(itself, itself, GIVEN, NULL, nothing));
    CHILD("fexecve", fexecve(open(itself, O_RDONLY), list, nothing));
    CHILD("execveat", execveat(AT_FDCWD, itself, list, nothing, 0));
    CHILD("syscall execve", syscall(SYS_execve, itself, list, nothing));
    CHILD("syscall execveat", syscall(SYS_execveat, AT_FDCWD, itself, list, nothing, 0));
    FAILS("execve", ENOENT, execve("/nowhere", list, nothing));
    FAILS("execl", ENOENT, execl("/nowhere", "a", "b", "c", "d", "e", "f", "g", NULL));
    if ((child = vfork()) == 0) {
        execve(itself, list, nothing);
        _exit(1);
    }
    RIGHT("vfork", ended_well(child));
    RIGHT("posix_spawn", !posix_spawn(&child, itself, NULL, NULL, list, nothing) && ended_well(child));
    RIGHT("posix_spawnp", !posix_spawnp(&child, itself, NULL, NULL, list, NULL) && ended_well(child));
#ifndef WATCHED
    RIGHT("posix_spawn", posix_spawn(&child, "/nowhere", NULL, NULL, list, nothing) == ENOENT);
#endif
    char command[1024];
    snprintf(command, sizeof command, "'%s' child '%s' 3 4 5 6 7 8", itself, host);
    RIGHT("system", (clearenv(), WEXITSTATUS(system(command)) == 42));
    clearenv();
    FILE *from = popen(command, "r");
    RIGHT("popen", WEXITSTATUS(pclose(from)) == 42);
    snprintf(command, sizeof command, "$('%s' child '%s' 3 4 5 6 7 8; echo $?)", itself, host);
    wordexp_t words;
    clearenv();
    RIGHT("wordexp", !wordexp(command, &words, 0) && words.we_wordc == 1 && !strcmp(words.we_wordv[0], "42"));
    wordfree(&words);
    CHILD("fork", _exit(as_child(9, list)));
}

/* --- threads */

static void *one_of_many(void *result) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    for (int i = 0; i < 5; i++) {
        if (getaddrinfo(host, "80", &hints, &found)) return NULL;
        int s = socket(found->ai_family, SOCK_STREAM, 0), is_right = !connect(s, found->ai_addr, found->ai_addrlen) && answers(s);
        freeaddrinfo(found);
        close(s);
        if (!is_right) return NULL;
    }
    return result;
}

static void *waits_for_a_message(void *socket) {
    char byte;
    recvfrom(*(int *)socket, &byte, 1, 0, NULL, NULL);
    return NULL;
}

static void *sends_for_ever(void *socket) {
    static char much[1 << 16];
    for (;;) sendto(*(int *)socket, much, sizeof much, 0, NULL, 0);
    return NULL;
}

static void threads(void) {
    pthread_t many[8], waiting;
    int right = 0, pair[2];
    void *result;
    for (int i = 0; i < 8; i++) pthread_create(&many[i], NULL, one_of_many, &right);
    for (int i = 0; i < 8; i++) pthread_join(many[i], &result), right += result == &right;
    RIGHT("threads", right == 8);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) abort();
    void *(*ways[])(void *) = {waits_for_a_message, sends_for_ever};
    for (int i = 0; i < 2; i++) {
        pthread_create(&waiting, NULL, ways[i], &pair[0]);
        pthread_cancel(waiting);
        pthread_join(waiting, &result);
        RIGHT("cancelled", result == PTHREAD_CANCELED);
    }
}

/* Becomes a program that is static: libc would be asked not to. */
static int become(char **arguments) {
    long result;
    setenv("VALGRIND_LAUNCHER", arguments[0], 1);
    __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_execve), "D"(arguments[0]), "S"(arguments), "d"(environ) : "rcx", "r11", "memory");
    return -result;
}

int main(int count, char **arguments) {
    itself = arguments[0];
    if (count > 2 && !strcmp(arguments[1], "become")) return become(arguments + 2);
    if (count > 2 && !strcmp(arguments[1], "child")) return as_child(count, arguments);
    if (count < 2) return 2;
    host = arguments[1];
    peers_are_known = count < 3;
    names();
    questions();
    connections();
    servers(AF_INET);
    servers(AF_INET6);
    of_unix();
    if (count < 3) datagrams(), devices(); /* else there is no island for them */
    by_number();
    of_old();
    threads();
    programs();
    printf("%d wrong\n", wrong);
    return wrong != 0;
}
