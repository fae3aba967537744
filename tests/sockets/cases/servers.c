/* Servers and visitors within the program itself. */
#include "case.h"

static int visitor_of(int type, struct place *at) {
    int s = socket(at->address.ss_family, type, 0);
    if (go(s, *at) && errno != EINPROGRESS) told("connect", -1);
    return s;
}

static int same(int first, int second) {
    struct place there = {.length = sizeof there.address}, here = there;
    if (getpeername(first, (void *)&there.address, &there.length) || getsockname(second, (void *)&here.address, &here.length)) return 0;
    return there.length == here.length && !memcmp(&there.address, &here.address, here.length);
}

static void meet(const char *address, int family) {
    struct place at;
    int s = server(SOCK_STREAM, address, &at);
    self(s);
    if (family) at = (struct place){at.address, at.length};
    int visitor = visitor_of(SOCK_STREAM, &at);
    struct place who = {.length = sizeof who.address};
    int one = accept(s, (void *)&who.address, &who.length);
    told("accept", one < 0 ? -1 : 0);
    say_place("who", &who.address, who.length);
    say(" same=%d,%d", same(visitor, one), same(one, visitor));
    peer(visitor);
    self(visitor);
    char got[3] = {0};
    told("send", send(visitor, "ab", 2, 0));
    told("recv", recv(one, got, 2, MSG_WAITALL));
    told("send", send(one, got, 2, 0));
    told("recv", recv(visitor, got, 2, MSG_WAITALL));
    close(one);
    told("end", recv(visitor, got, 2, 0));
}

CASE(own_server_v4) { meet("127.0.0.1", 0); }
CASE(own_server_v6) { meet("::1", 0); }
CASE(own_server_at_another_address) { meet("127.0.0.9", 0); }

CASE(own_server_everywhere) {
    struct place at;
    int s = server(SOCK_STREAM, "0.0.0.0", &at);
    self(s);
    struct sockaddr_in *v4 = (void *)&at.address;
    v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int visitor = visitor_of(SOCK_STREAM, &at), one = accept(s, NULL, NULL);
    say(" same=%d,%d", same(visitor, one), same(one, visitor));
    self(one);
    /* The address of nobody is this machine's. */
    v4->sin_addr.s_addr = 0;
    visitor = visitor_of(SOCK_STREAM, &at), one = accept(s, NULL, NULL);
    say(" same=%d,%d", same(visitor, one), same(one, visitor));
}

CASE(own_server_of_both_families) {
    struct place at, v4 = {.length = sizeof(struct sockaddr_in)};
    int s = server(SOCK_STREAM, "::", &at);
    *(struct sockaddr_in *)&v4.address = (struct sockaddr_in){AF_INET, htons(port_of(&at)), {htonl(INADDR_LOOPBACK)}, {0}};
    int visitor = visitor_of(SOCK_STREAM, &v4), one = accept(s, NULL, NULL);
    peer(one);
    self(one);
    peer(visitor);
    ((struct sockaddr_in6 *)&at.address)->sin6_addr = in6addr_loopback;
    visitor = visitor_of(SOCK_STREAM, &at), one = accept(s, NULL, NULL);
    peer(one);
    say(" same=%d,%d", same(visitor, one), same(one, visitor));
}

CASE(own_server_of_v6_only) {
    int s = stream(6), one = 1;
    setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    socklen_t length = sizeof any;
    told("bind", bind(s, (void *)&any, sizeof any));
    told("listen", listen(s, 4));
    getsockname(s, (void *)&any, &length);
    struct place v4 = {.length = sizeof(struct sockaddr_in)};
    *(struct sockaddr_in *)&v4.address = (struct sockaddr_in){AF_INET, any.sin6_port, {htonl(INADDR_LOOPBACK)}, {0}};
    told("v4", go(stream(4), v4));
    any.sin6_addr = in6addr_loopback;
    told("v6", connect(stream(6), (void *)&any, sizeof any));
    /* The other family's port is free. */
    told("bind v4", bind(stream(4), (void *)&v4.address, v4.length));
}

CASE(own_server_is_not_there) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at);
    close(s);
    told("connect", go(stream(4), at));
    s = nonblocking(4);
    told("connect", go(s, at));
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    s = socket(AF_INET, SOCK_STREAM, 0);
    told("bound", bind(s, (void *)&at.address, at.length));
    told("connect", go(stream(4), at));
}

CASE(own_server_in_a_child) {
    struct place *at = shared(sizeof *at);
    int ready[2];
    if (pipe(ready)) return;
    pid_t child = fork();
    if (child == 0) {
        int s = server(SOCK_STREAM, "127.0.0.1", at);
        if (write(ready[1], "", 1) != 1) _exit(1);
        int one = accept(s, NULL, NULL);
        char got[2];
        if (recv(one, got, 2, MSG_WAITALL) == 2 && send(one, got, 2, 0) != 2) _exit(2);
        _exit(0);
    }
    char word;
    if (read(ready[0], &word, 1) != 1) return;
    int visitor = visitor_of(SOCK_STREAM, at);
    char got[3] = {0};
    told("send", send(visitor, "ab", 2, 0));
    told("recv", recv(visitor, got, 2, MSG_WAITALL));
    say(" \"%s\"", got);
    told("end", recv(visitor, got, 1, 0));
    waitpid(child, NULL, 0);
    told("afterwards", go(stream(4), *at));
}

CASE(own_server_passed_on_by_exec_and_fork) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at), ends[2];
    if (pipe(ends)) return;
    pid_t child = fork();
    if (child == 0) {
        int one = accept(s, NULL, NULL);
        if (write(ends[1], one < 0 ? "n" : "y", 1) != 1) _exit(1);
        _exit(0);
    }
    close(s);
    int visitor = visitor_of(SOCK_STREAM, &at);
    peer(visitor);
    char word;
    told("read", read(ends[0], &word, 1));
    say(" %c", word);
    waitpid(child, NULL, 0);
}

CASE(nonblocking_visit_of_an_own_server) {
    struct place at;
    int s = server(SOCK_STREAM | SOCK_NONBLOCK, "127.0.0.1", &at);
    told("accept", accept(s, NULL, NULL));
    wait_for(s, POLLIN, 0);
    int visitor = nonblocking(4);
    told("connect", go(visitor, at));
    wait_for(visitor, POLLOUT, LONG);
    socket_error(visitor);
    wait_for(s, POLLIN, LONG);
    int one = accept(s, NULL, NULL);
    told("accept", one < 0 ? -1 : 0);
    say(" nonblocking=%d", (fcntl(one, F_GETFL) & O_NONBLOCK) != 0);
    told("again", accept(s, NULL, NULL));
}

CASE(accept_with_flags) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at);
    static const int flags[] = {0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC};
    for (int i = 0; i < 4; i++) {
        visitor_of(SOCK_STREAM, &at);
        int one = accept4(s, NULL, NULL, flags[i]);
        say(" %d/%d", (fcntl(one, F_GETFL) & O_NONBLOCK) != 0, fcntl(one, F_GETFD));
    }
    told("other flags", accept4(s, NULL, NULL, 0x10));
}

CASE(accept_says_what_is_wrong) {
    struct place at;
    int s = server(SOCK_STREAM | SOCK_NONBLOCK, "127.0.0.1", &at);
    struct sockaddr_storage who;
    socklen_t length = 4;
    told("not listening", accept(stream(4), NULL, NULL));
    told("datagrams", accept(socket(AF_INET, SOCK_DGRAM, 0), NULL, NULL));
    told("descriptor", accept(77, NULL, NULL));
    told("file", accept(0, NULL, NULL));
    told("connected", accept(connected(4, ECHO), NULL, NULL));
    visitor_of(SOCK_STREAM, &at);
    wait_for(s, POLLIN, LONG);
    told("little room", accept(s, (void *)&who, &length) < 0 ? -1 : 0);
    say(" %d", length);
    visitor_of(SOCK_STREAM, &at);
    wait_for(s, POLLIN, LONG);
    told("no length", accept(s, (void *)&who, NULL));
}

CASE(listen_in_many_ways) {
    int s = stream(4);
    told("unbound", listen(s, 5));
    self(s);
    told("again", listen(s, 1));
    told("none", listen(s, 0));
    told("negative", listen(stream(4), -1));
    told("many", listen(stream(6), 1 << 30));
    told("datagrams", listen(socket(AF_INET, SOCK_DGRAM, 0), 1));
    told("descriptor", listen(77, 1));
    told("file", listen(0, 1));
    told("connected", listen(connected(4, ECHO), 1));
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return;
    told("pair", listen(ends[0], 1));
}

CASE(a_queue_is_full) {
    struct place at;
    int s = stream(4);
    at.length = sizeof at.address;
    told("listen", listen(s, 0));
    getsockname(s, (void *)&at.address, &at.length);
    ((struct sockaddr_in *)&at.address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int first = nonblocking(4), second = nonblocking(4);
    go(first, at);
    wait_for(first, POLLOUT, LONG);
    told("connect", go(second, at));
    wait_for(second, POLLOUT, SHORT);
    told("accept", accept(s, NULL, NULL) < 0 ? -1 : 0);
    wait_for(second, POLLOUT, LONG);
    socket_error(second);
}

CASE(a_port_is_taken) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at), one = 1, other = stream(4);
    told("bind", bind(other, (void *)&at.address, at.length));
    setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    told("reuse", bind(other, (void *)&at.address, at.length));
    struct place elsewhere = at;
    ((struct sockaddr_in *)&elsewhere.address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
    told("elsewhere", bind(stream(4), (void *)&elsewhere.address, elsewhere.length));
    ((struct sockaddr_in *)&elsewhere.address)->sin_addr.s_addr = 0;
    told("everywhere", bind(stream(4), (void *)&elsewhere.address, elsewhere.length));
    close(s);
    told("afterwards", bind(stream(4), (void *)&at.address, at.length));
}

CASE(a_port_is_shared) {
    int one = 1, first = stream(4), second = stream(4), third = stream(4);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof at;
    setsockopt(first, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    setsockopt(second, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    told("bind", bind(first, (void *)&at, sizeof at));
    getsockname(first, (void *)&at, &length);
    told("shared", bind(second, (void *)&at, sizeof at));
    told("not shared", bind(third, (void *)&at, sizeof at));
    told("listen", listen(first, 4));
    told("listen", listen(second, 4));
    told("connect", connect(stream(4), (void *)&at, sizeof at));
}

CASE(a_port_is_free_again_at_once) {
    struct place at = {.length = sizeof at.address};
    int s = stream(4), again = stream(4), one = 1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(again, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    told("listen", listen(s, 1));
    getsockname(s, (void *)&at.address, &at.length);
    ((struct sockaddr_in *)&at.address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    visitor_of(SOCK_STREAM, &at);
    close(accept(s, NULL, NULL));
    close(s);
    told("bind", bind(again, (void *)&at.address, at.length));
    told("listen", listen(again, 1));
}

CASE(own_server_resets) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at), visitor = visitor_of(SOCK_STREAM, &at), one = accept(s, NULL, NULL);
    struct linger at_once = {1, 0};
    char got;
    setsockopt(one, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(one);
    wait_for(visitor, POLLIN, LONG);
    told("read", read(visitor, &got, 1));
    told("read", read(visitor, &got, 1));
    told("send", send(visitor, "x", 1, MSG_NOSIGNAL));
}

CASE(visitor_leaves_before_it_is_taken) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at);
    close(visitor_of(SOCK_STREAM, &at));
    int one = accept(s, NULL, NULL);
    told("accept", one < 0 ? -1 : 0);
    read_all(one);
}

CASE(server_ends_before_it_takes_its_visitor) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at), visitor = visitor_of(SOCK_STREAM, &at);
    peer(visitor);
    close(s);
    wait_for(visitor, POLLIN, LONG);
    char got;
    told("read", read(visitor, &got, 1));
}

CASE(a_server_stops_listening) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at);
    told("shutdown", shutdown(s, SHUT_RD));
    told("accept", accept(s, NULL, NULL));
    told("connect", go(stream(4), at));
    told("listen", listen(s, 1));
    told("connect", go(stream(4), at));
}

CASE(a_socket_visits_itself) {
    int s = stream(4);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof at;
    bind(s, (void *)&at, sizeof at);
    getsockname(s, (void *)&at, &length);
    told("connect", connect(s, (void *)&at, sizeof at));
    say(" same=%d", same(s, s));
    echo(s);
}

CASE(a_patient_accept) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at);
    struct timeval patience = {0, 100000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    told("accept", accept(s, NULL, NULL));
}

static void *takes(void *at) {
    int one = accept(*(int *)at, NULL, NULL);
    char got;
    while (one >= 0 && recv(one, &got, 1, 0) == 1)
        if (send(one, &got, 1, 0) != 1) break;
    close(one);
    return NULL;
}

CASE(threads_take_and_visit) {
    struct place at;
    int s = server(SOCK_STREAM, "::1", &at), failed = 0;
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, takes, &s);
    for (int i = 0; i < 8; i++) {
        int visitor = visitor_of(SOCK_STREAM, &at);
        char got = 0, sent = 'a' + i;
        if (send(visitor, &sent, 1, 0) != 1 || recv(visitor, &got, 1, 0) != 1 || got != sent) failed++;
        close(visitor);
    }
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    say(" failed=%d", failed);
}

CASE(own_servers_and_others_side_by_side) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at), own = visitor_of(SOCK_STREAM, &at), other = connected(4, ECHO), one = accept(s, NULL, NULL);
    peer(own);
    peer(other);
    char got[2];
    /* As a proxy would. */
    told("send", send(own, "ab", 2, 0));
    told("recv", recv(one, got, 2, MSG_WAITALL));
    told("send", send(other, got, 2, 0));
    told("recv", recv(other, got, 2, MSG_WAITALL));
    told("send", send(one, got, 2, 0));
    told("recv", recv(own, got, 2, MSG_WAITALL));
}
