/* What sockets say of themselves, before and after, and what they may be set to. */
#include "case.h"

CASE(names_before_anything) {
    for (int family = 4; family <= 6; family += 2) {
        int s = stream(family), d = socket(family == 4 ? AF_INET : AF_INET6, SOCK_DGRAM, 0);
        self(s);
        peer(s);
        self(d);
        peer(d);
        socket_error(s);
    }
}

CASE(names_need_room) {
    int s = connected(4, ECHO);
    unsigned char room[32];
    for (int length = 0; length <= 24; length += 6) {
        memset(room, 0xee, sizeof room);
        socklen_t said = length;
        say(" %d", length);
        told("", getpeername(s, (void *)room, &said));
        int written = 0;
        while (written < 32 && room[written] != 0xee) written++;
        say(",%d", said);
        if (length < 8) say(",%s", written <= length ? "within" : "beyond");
    }
    socklen_t negative = -1;
    told("negative", getpeername(s, (void *)room, &negative));
    told("no length", getpeername(s, (void *)room, NULL));
    socklen_t plain = sizeof room;
    told("no room", getpeername(s, NULL, &plain));
    told("no room for self", getsockname(s, NULL, &plain));
    plain = 0;
    told("none asked for", getpeername(s, NULL, &plain));
    told("descriptor", getpeername(77, (void *)room, &plain));
    told("file", getpeername(0, (void *)room, &plain));
}

CASE(a_long_room_is_not_filled) {
    int s = connected(6, ECHO);
    struct place at = {.length = sizeof at.address};
    getpeername(s, (void *)&at.address, &at.length);
    say(" %d", at.length);
    getsockname(s, (void *)&at.address, &at.length);
    say(" %d", at.length);
}

CASE(the_error_needs_room) {
    int s = connected(4, ECHO), error = -1;
    for (socklen_t length = 0; length < 6; length++) {
        socklen_t said = length;
        error = -1;
        say(" %d", length);
        told("", getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &said));
        say(",%d,%x", said, error);
    }
    socklen_t negative = -1, whole = 4;
    told("negative", getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &negative));
    told("no length", getsockopt(s, SOL_SOCKET, SO_ERROR, &error, NULL));
    told("no room", getsockopt(s, SOL_SOCKET, SO_ERROR, NULL, &whole));
    told("descriptor", getsockopt(77, SOL_SOCKET, SO_ERROR, &error, &whole));
    told("file", getsockopt(0, SOL_SOCKET, SO_ERROR, &error, &whole));
}

static int number(int s, int level, int option) {
    int value = -1;
    socklen_t length = sizeof value;
    return getsockopt(s, level, option, &value, &length) ? -errno : value;
}

static void facts(int s) {
    say(" type=%d domain=%d protocol=%d listens=%d", number(s, SOL_SOCKET, SO_TYPE), number(s, SOL_SOCKET, SO_DOMAIN),
        number(s, SOL_SOCKET, SO_PROTOCOL), number(s, SOL_SOCKET, SO_ACCEPTCONN));
}

CASE(facts_of_a_socket) {
    facts(stream(4));
    facts(stream(6));
    facts(connected(4, ECHO));
    facts(socket(AF_INET, SOCK_DGRAM, 0));
    facts(socket(AF_INET6, SOCK_DGRAM, 0));
    struct place at;
    facts(server(SOCK_STREAM, "127.0.0.1", &at));
}

CASE(state_of_a_connection) {
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    int s = stream(4);
    getsockopt(s, IPPROTO_TCP, TCP_INFO, &info, &length);
    say(" %d", info.tcpi_state);
    go(s, place_of(4, ECHO));
    getsockopt(s, IPPROTO_TCP, TCP_INFO, &info, &length);
    say(" %d", info.tcpi_state);
    shutdown(s, SHUT_WR);
    read_all(s);
    for (int waited = 0; waited < LONG && info.tcpi_state != TCP_CLOSE && info.tcpi_state != TCP_TIME_WAIT; waited++) {
        getsockopt(s, IPPROTO_TCP, TCP_INFO, &info, &length);
        usleep(1000);
    }
    say(" %s", info.tcpi_state == TCP_CLOSE || info.tcpi_state == TCP_TIME_WAIT ? "over" : "not over");
}

static const struct { const char *name; int level, option, value; } settings[] = {
    {"nodelay", IPPROTO_TCP, TCP_NODELAY, 1},
    {"keepalive", SOL_SOCKET, SO_KEEPALIVE, 1},
    {"keepidle", IPPROTO_TCP, TCP_KEEPIDLE, 30},
    {"keepintvl", IPPROTO_TCP, TCP_KEEPINTVL, 5},
    {"keepcnt", IPPROTO_TCP, TCP_KEEPCNT, 3},
    {"user timeout", IPPROTO_TCP, TCP_USER_TIMEOUT, 7000},
    {"quickack", IPPROTO_TCP, TCP_QUICKACK, 1},
    {"linger2", IPPROTO_TCP, TCP_LINGER2, 9},
    {"syncnt", IPPROTO_TCP, TCP_SYNCNT, 4},
    {"window clamp", IPPROTO_TCP, TCP_WINDOW_CLAMP, 32768},
    {"notsent", IPPROTO_TCP, TCP_NOTSENT_LOWAT, 50000},
    {"sndbuf", SOL_SOCKET, SO_SNDBUF, 70000},
    {"rcvbuf", SOL_SOCKET, SO_RCVBUF, 70000},
    {"reuseaddr", SOL_SOCKET, SO_REUSEADDR, 1},
    {"reuseport", SOL_SOCKET, SO_REUSEPORT, 1},
    {"oobinline", SOL_SOCKET, SO_OOBINLINE, 1},
    {"priority", SOL_SOCKET, SO_PRIORITY, 3},
    {"timestamp", SOL_SOCKET, SO_TIMESTAMP, 1},
    {"rcvlowat", SOL_SOCKET, SO_RCVLOWAT, 5},
    {"broadcast", SOL_SOCKET, SO_BROADCAST, 1},
    {"dontroute", SOL_SOCKET, SO_DONTROUTE, 0},
    {"tos", IPPROTO_IP, IP_TOS, 0x10},
    {"ttl", IPPROTO_IP, IP_TTL, 44},
    {"recverr", IPPROTO_IP, IP_RECVERR, 1},
    {"mtu discover", IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO},
    {"address without port", IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static void set_all(int s) {
    for (int i = 0; i < SETTINGS; i++) {
        say(" %s", settings[i].name);
        told("", setsockopt(s, settings[i].level, settings[i].option, &settings[i].value, sizeof(int)));
        say(",%d", number(s, settings[i].level, settings[i].option));
    }
}

CASE(settings_before_connect) {
    int s = stream(4);
    set_all(s);
    told("connect", go(s, place_of(4, ECHO)));
    for (int i = 0; i < SETTINGS; i++)
        if (settings[i].option != TCP_WINDOW_CLAMP && settings[i].option != TCP_QUICKACK)
            say(" %s,%d", settings[i].name, number(s, settings[i].level, settings[i].option));
    echo(s);
}

CASE(settings_after_connect) {
    int s = connected(4, ECHO);
    set_all(s);
    echo(s);
}

CASE(settings_of_what_did_not_wait) {
    int s = nonblocking(4), fifty = 50000;
    setsockopt(s, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &fifty, sizeof fifty);
    go(s, place_of(4, ECHO));
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    say(" notsent=%d lowat=%d", number(s, IPPROTO_TCP, TCP_NOTSENT_LOWAT), number(s, SOL_SOCKET, SO_RCVLOWAT));
    s = nonblocking(4);
    go(s, place_of(4, ECHO));
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    say(" notsent=%d nodelay=%d cork=%d", number(s, IPPROTO_TCP, TCP_NOTSENT_LOWAT), number(s, IPPROTO_TCP, TCP_NODELAY),
        number(s, IPPROTO_TCP, TCP_CORK));
}

CASE(settings_of_v6) {
    int s = stream(6);
    say(" v6only=%d hops=%d", number(s, IPPROTO_IPV6, IPV6_V6ONLY), number(s, IPPROTO_IPV6, IPV6_UNICAST_HOPS));
    int one = 1, class = 0x10;
    told("v6only", setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one));
    told("class", setsockopt(s, IPPROTO_IPV6, IPV6_TCLASS, &class, sizeof class));
    told("connect", go(s, place_of(6, ECHO)));
    say(" v6only=%d class=%d", number(s, IPPROTO_IPV6, IPV6_V6ONLY), number(s, IPPROTO_IPV6, IPV6_TCLASS));
    int zero = 0;
    told("v6only", setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero));
    echo(s);
}

CASE(settings_that_there_are_not) {
    int s = stream(4), one = 1;
    told("option 999", setsockopt(s, SOL_SOCKET, 999, &one, sizeof one));
    told("level 999", setsockopt(s, 999, 1, &one, sizeof one));
    told("short", setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, 1));
    told("no room", setsockopt(s, IPPROTO_TCP, TCP_NODELAY, NULL, 4));
    told("v6 on v4", setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one));
    told("set type", setsockopt(s, SOL_SOCKET, SO_TYPE, &one, sizeof one));
    told("get 999", number(s, SOL_SOCKET, 999) < 0 ? 0 : -1);
}

CASE(device_and_filter_of_a_connection) {
    int s = connected(4, ECHO);
    char device[16] = {0};
    socklen_t length = sizeof device;
    told("device", getsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, device, &length));
    say(" \"%s\"", device);
    length = 0;
    told("filter", getsockopt(s, SOL_SOCKET, 26 /* SO_GET_FILTER */, NULL, &length));
    say(" %d", length);
    say(" mark=%d", number(s, SOL_SOCKET, SO_MARK));
}

CASE(bind_says_what_is_wrong) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(0x5db8d822)}};
    told("foreign", bind(stream(4), (void *)&at, sizeof at));
    at.sin_addr.s_addr = 0;
    told("short", bind(stream(4), (void *)&at, 8));
    told("v4 on v6", bind(stream(6), (void *)&at, sizeof at));
    told("null", bind(stream(4), NULL, 16));
    told("descriptor", bind(77, (void *)&at, sizeof at));
    told("file", bind(0, (void *)&at, sizeof at));
    struct sockaddr_in6 at6 = {.sin6_family = AF_INET6};
    told("v6 on v4", bind(stream(4), (void *)&at6, sizeof at6));
    inet_pton(AF_INET6, "2001:db8::77", &at6.sin6_addr);
    told("foreign v6", bind(stream(6), (void *)&at6, sizeof at6));
    at.sin_family = AF_UNSPEC;
    told("unspecified", bind(stream(4), (void *)&at, sizeof at));
    int s = stream(4);
    at.sin_family = AF_INET;
    told("once", bind(s, (void *)&at, sizeof at));
    told("twice", bind(s, (void *)&at, sizeof at));
    self(s);
}

CASE(names_of_this_machine) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET}, *found = NULL;
    int error = getaddrinfo("localhost", "80", &hints, &found);
    say(" localhost=%d", error);
    if (!error) say(" %s", inet_ntoa(((struct sockaddr_in *)found->ai_addr)->sin_addr));
    hints.ai_flags = AI_PASSIVE;
    error = getaddrinfo(NULL, "80", &hints, &found);
    say(" passive=%d %s", error, error ? "" : inet_ntoa(((struct sockaddr_in *)found->ai_addr)->sin_addr));
    hints.ai_flags = AI_NUMERICHOST;
    say(" numeric=%s", gai_strerror(getaddrinfo("localhost", "80", &hints, &found)));
    say(" bad=%s", gai_strerror(getaddrinfo("1.2.3.4", "no-such-service", &(struct addrinfo){.ai_socktype = SOCK_STREAM}, &found)));
}
