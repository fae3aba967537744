/* Datagrams to and from others. */
#include "case.h"

static int datagrams(int family) { return socket(family == 4 ? AF_INET : AF_INET6, SOCK_DGRAM, 0); }

/* What is sent may be lost, so it is sent again until something comes. */
static long ask(int s, const void *sent, size_t length, const struct place *to, void *got, size_t room, struct place *from) {
    for (int tries = 0; tries < 8; tries++) {
        long done = to ? sendto(s, sent, length, 0, (void *)&to->address, to->length) : send(s, sent, length, 0);
        if (done != (long)length) return told("sent", done);
        struct pollfd asked = {s, POLLIN, 0};
        if (poll(&asked, 1, 2000) == 1) {
            if (from) from->length = sizeof from->address;
            return recvfrom(s, got, room, 0, from ? (void *)&from->address : NULL, from ? &from->length : NULL);
        }
    }
    errno = ETIME;
    return -1;
}

static void when_connected(int family) {
    int s = datagrams(family);
    char got[8] = {0};
    told("connect", go(s, place_of(family, DATAGRAMS)));
    peer(s);
    self(s);
    socket_error(s);
    told("ask", ask(s, "hello?", 6, NULL, got, 8, NULL));
    say(" \"%s\"", got);
    peer(s);
    told("again", go(s, place_of(family, DATAGRAMS)));
    told("ask", ask(s, "hello!", 6, NULL, got, 8, NULL));
    say(" \"%s\"", got);
}

CASE(datagrams_connected_v4) { when_connected(4); }
CASE(datagrams_connected_v6) { when_connected(6); }
CASE(datagrams_connected_mapped) { when_connected(46); }

static void when_not_connected(int family) {
    int s = datagrams(family);
    char got[8] = {0};
    struct place to = place_of(family, DATAGRAMS), from;
    told("ask", ask(s, "hello?", 6, &to, got, 8, &from));
    say(" \"%s\"", got);
    say_place("from", &from.address, from.length);
    peer(s);
    self(s);
    told("ask", ask(s, "hello!", 6, &to, got, 8, &from));
    say(" \"%s\"", got);
}

CASE(datagrams_not_connected_v4) { when_not_connected(4); }
CASE(datagrams_not_connected_v6) { when_not_connected(6); }
CASE(datagrams_not_connected_mapped) { when_not_connected(46); }

CASE(datagrams_from_a_bound_socket) {
    struct place at, to = place_of(4, DATAGRAMS), from;
    int s = server(SOCK_DGRAM, "0.0.0.0", &at);
    char got[8] = {0};
    told("ask", ask(s, "hello?", 6, &to, got, 8, &from));
    say_place("from", &from.address, from.length);
    self(s);
    struct place after = {.length = sizeof after.address};
    getsockname(s, (void *)&after.address, &after.length);
    say(" %s port", port_of(&at) == port_of(&after) ? "same" : "other");
}

CASE(datagrams_of_every_size) {
    int s = datagrams(4);
    static unsigned char sent[60000], got[sizeof sent];
    static const int sizes[] = {1, 500, 1200, 1472, 4000, 9000, 30000};
    go(s, place_of(4, DATAGRAMS));
    for (size_t i = 0; i < sizeof sent; i++) sent[i] = i * 7 + (i >> 8);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        long length = ask(s, sent, sizes[i], NULL, got, sizeof got, NULL);
        say(" %ld%s", length, length > 0 && !memcmp(sent, got, length) ? "" : "!");
    }
}

CASE(datagrams_that_are_empty) {
    int s = datagrams(4);
    char got[8];
    go(s, place_of(4, DATAGRAMS));
    told("ask", ask(s, "", 0, NULL, got, 8, NULL));
}

CASE(datagrams_by_message) {
    int s = datagrams(4);
    char got[8] = {0};
    struct place to = place_of(4, DATAGRAMS), from;
    struct iovec parts[2] = {{"he", 2}, {"llo!", 4}};
    struct msghdr message = {.msg_name = &to.address, .msg_namelen = to.length, .msg_iov = parts, .msg_iovlen = 2};
    for (int tries = 0; tries < 8; tries++) {
        if (sendmsg(s, &message, 0) != 6) { told("sendmsg", -1); return; }
        struct pollfd asked = {s, POLLIN, 0};
        if (poll(&asked, 1, 2000) == 1) break;
    }
    struct iovec part = {got, 8};
    message = (struct msghdr){.msg_name = &from.address, .msg_namelen = sizeof from.address, .msg_iov = &part, .msg_iovlen = 1};
    told("recvmsg", recvmsg(s, &message, MSG_DONTWAIT));
    say(" \"%s\"", got);
    say_place("from", &from.address, message.msg_namelen);
}

CASE(datagrams_of_two_sockets_at_once) {
    int first = datagrams(4), second = datagrams(6);
    char got[8] = {0};
    struct place to4 = place_of(4, DATAGRAMS), to6 = place_of(6, DATAGRAMS), from;
    for (int i = 0; i < 3; i++) {
        told("first", ask(first, "first", 5, &to4, got, 8, &from));
        say(" \"%.5s\"", got);
        told("second", ask(second, "second", 6, &to6, got, 8, &from));
        say(" \"%.6s\"", got);
    }
}

CASE(datagrams_after_a_disconnect) {
    int s = datagrams(4);
    char got[8] = {0};
    struct place to = place_of(4, DATAGRAMS), from;
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    told("connect", go(s, to));
    told("ask", ask(s, "one", 3, NULL, got, 8, NULL));
    told("disconnect", connect(s, &none, sizeof none));
    peer(s);
    told("send", send(s, "x", 1, 0));
    told("ask", ask(s, "two", 3, &to, got, 8, &from));
    say(" \"%.3s\"", got);
    say_place("from", &from.address, from.length);
}

CASE(datagrams_of_own_and_others_by_one_socket) {
    struct place at, to = place_of(4, DATAGRAMS), from;
    int own = server(SOCK_DGRAM, "127.0.0.1", &at), s = datagrams(4);
    char got[8] = {0};
    told("own", sendto(s, "own", 3, 0, (void *)&at.address, at.length));
    told("recv", recv(own, got, 8, 0));
    told("ask", ask(s, "other", 5, &to, got, 8, &from));
    say(" \"%.5s\"", got);
    say_place("from", &from.address, from.length);
}

static void child_asks(int s) {
    char got[8];
    told("ask", ask(s, "child", 5, NULL, got, 8, NULL));
    peer(s);
}

CASE(datagrams_of_a_child) {
    int s = datagrams(4);
    told("connect", go(s, place_of(4, DATAGRAMS)));
    in_child(child_asks, s);
    char got[8];
    told("ask", ask(s, "parent", 6, NULL, got, 8, NULL));
}

CASE(datagrams_wait_for_nobody) {
    int s = datagrams(4);
    char got;
    go(s, place_of(4, DATAGRAMS));
    told("recv", recv(s, &got, 1, MSG_DONTWAIT));
    wait_for(s, POLLIN | POLLOUT, 0);
    struct timeval patience = {0, 100000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    told("recv", recv(s, &got, 1, 0));
}
