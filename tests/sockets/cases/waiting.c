/* connect() that does not wait, and every way to wait for it. */
#include "case.h"

static void not_waiting(int family) {
    int s = nonblocking(family);
    told("connect", go(s, place_of(family, ECHO)));
    wait_for(s, POLLIN | POLLOUT, LONG);
    socket_error(s);
    socket_error(s);
    peer(s);
    self(s);
    echo(s);
}

CASE(nonblocking_v4) { not_waiting(4); }
CASE(nonblocking_v6) { not_waiting(6); }
CASE(nonblocking_mapped) { not_waiting(46); }

static void refused(int family, enum service service) {
    int s = nonblocking(family);
    told("connect", go(s, place_of(family, service)));
    wait_for_event(s, POLLIN | POLLOUT | POLLRDHUP, POLLHUP);
    socket_error(s);
    socket_error(s);
    peer(s);
    wait_for(s, POLLIN | POLLOUT, SHORT);
}

CASE(nonblocking_refused_v4) { refused(4, REFUSED); }
CASE(nonblocking_refused_v6) { refused(6, REFUSED); }
CASE(nonblocking_refused_mapped) { refused(46, REFUSED); }
CASE(nonblocking_absent_v4) { refused(4, ABSENT); }
CASE(nonblocking_absent_v6) { refused(6, ABSENT); }

CASE(refusal_is_read_from) {
    int s = nonblocking(4);
    char got;
    go(s, place_of(4, REFUSED));
    wait_for_event(s, POLLIN, POLLHUP);
    told("read", read(s, &got, 1));
    told("read", read(s, &got, 1));
    socket_error(s);
}

CASE(refusal_is_written_to) {
    int s = nonblocking(4);
    go(s, place_of(4, REFUSED));
    wait_for_event(s, POLLOUT, POLLHUP);
    told("send", send(s, "x", 1, MSG_NOSIGNAL));
    told("send", send(s, "x", 1, MSG_NOSIGNAL));
}

CASE(refusal_is_told_by_connect) {
    int s = nonblocking(4);
    go(s, place_of(4, REFUSED));
    wait_for_event(s, POLLOUT, POLLHUP);
    told("again", go(s, place_of(4, REFUSED)));
    socket_error(s);
    told("other", go(s, place_of(4, ECHO)));
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    peer(s);
    echo(s);
}

CASE(connect_after_a_refusal) {
    int s = nonblocking(4);
    go(s, place_of(4, REFUSED));
    wait_for_event(s, POLLOUT, POLLHUP);
    socket_error(s);
    told("other", go(s, place_of(4, ECHO)));
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    echo(s);
}

CASE(connect_again_when_it_stands) {
    int s = nonblocking(4);
    go(s, place_of(4, ECHO));
    wait_for(s, POLLOUT, LONG);
    told("again", go(s, place_of(4, ECHO)));
    told("again", go(s, place_of(4, ECHO)));
    echo(s);
}

CASE(under_way) {
    int s = nonblocking(4);
    char got;
    told("connect", go(s, place_of(4, STUCK)));
    wait_for(s, POLLIN | POLLOUT | POLLRDHUP, SHORT);
    told("again", go(s, place_of(4, STUCK)));
    told("other", go(s, place_of(4, ECHO)));
    peer(s);
    self(s);
    socket_error(s);
    told("send", send(s, "x", 1, MSG_NOSIGNAL));
    told("recv", recv(s, &got, 1, 0));
    told("listen", listen(s, 1));
    told("close", close(s));
}

CASE(shutdown_under_way) {
    int s = nonblocking(4);
    go(s, place_of(4, STUCK));
    told("shutdown", shutdown(s, SHUT_RDWR));
    wait_for(s, POLLIN | POLLOUT, SHORT);
    socket_error(s);
    peer(s);
}

CASE(close_under_way_and_use_the_number_again) {
    int s = nonblocking(4);
    go(s, place_of(4, STUCK));
    close(s);
    int again = nonblocking(4);
    say(" %s number", s == again ? "same" : "other");
    told("connect", go(again, place_of(4, ECHO)));
    wait_for(again, POLLOUT, LONG);
    socket_error(again);
    peer(again);
    echo(again);
}

CASE(it_takes_its_time) {
    int s = nonblocking(4);
    told("connect", go(s, place_of(4, LATE + 4)));
    wait_for(s, POLLOUT, SHORT);
    release(LATE + 4);
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    peer(s);
    echo(s);
}

CASE(nobody_asks_for_the_error) {
    int s = nonblocking(4);
    char got[6];
    go(s, place_of(4, ECHO));
    wait_for(s, POLLOUT, LONG);
    told("send", send(s, "hello!", 6, 0));
    wait_for(s, POLLIN, LONG);
    told("recv", recv(s, got, 6, 0));
    peer(s);
}

CASE(made_nonblocking_by_fcntl) {
    int s = stream(4);
    fcntl(s, F_SETFL, fcntl(s, F_GETFL) | O_NONBLOCK);
    told("connect", go(s, place_of(4, ECHO)));
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    fcntl(s, F_SETFL, fcntl(s, F_GETFL) & ~O_NONBLOCK);
    echo(s);
}

CASE(made_nonblocking_by_ioctl) {
    int s = stream(4), one = 1;
    ioctl(s, FIONBIO, &one);
    told("connect", go(s, place_of(4, ECHO)));
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    echo(s);
}

CASE(made_nonblocking_by_its_duplicate) {
    int s = stream(4), other = dup(s);
    fcntl(other, F_SETFL, O_NONBLOCK);
    told("connect", go(s, place_of(4, ECHO)));
    wait_for(other, POLLOUT, LONG);
    socket_error(other);
    peer(other);
    echo(s);
}

/* What epoll finds, one event at a time. */
static void found_by(int epoll, int patience) {
    struct epoll_event event = {0};
    int count = epoll_wait(epoll, &event, 1, patience);
    events("epoll", count == 1 ? event.events : 0);
}

static int watched(int s, unsigned wanted) {
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = wanted};
    epoll_ctl(epoll, EPOLL_CTL_ADD, s, &event);
    return epoll;
}

CASE(epoll_by_level) {
    int s = nonblocking(4), epoll = watched(s, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    found_by(epoll, 0);
    told("connect", go(s, place_of(4, ECHO)));
    found_by(epoll, LONG);
    found_by(epoll, LONG);
    socket_error(s);
    echo(s);
}

CASE(epoll_by_edge) {
    int s = nonblocking(4), epoll = watched(s, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    found_by(epoll, 0);
    told("connect", go(s, place_of(4, ECHO)));
    found_by(epoll, LONG);
    found_by(epoll, SHORT);
    socket_error(s);
    send(s, "x", 1, 0);
    struct epoll_event event = {0};
    while (epoll_wait(epoll, &event, 1, LONG) == 1 && !(event.events & EPOLLIN)) {}
    events("epoll", event.events);
}

CASE(epoll_by_edge_when_it_takes_its_time) {
    int s = nonblocking(4), epoll = watched(s, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    found_by(epoll, 0);
    told("connect", go(s, place_of(4, LATE + 5)));
    found_by(epoll, SHORT);
    release(LATE + 5);
    found_by(epoll, LONG);
    found_by(epoll, SHORT);
    socket_error(s);
    echo(s);
}

CASE(epoll_by_edge_refused) {
    int s = nonblocking(4), epoll = watched(s, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    found_by(epoll, 0);
    go(s, place_of(4, REFUSED));
    unsigned all = 0;
    for (struct epoll_event event; !(all & EPOLLHUP) && epoll_wait(epoll, &event, 1, LONG) == 1;) all |= event.events;
    events("epoll", all);
    found_by(epoll, SHORT);
    socket_error(s);
}

CASE(epoll_once) {
    int s = nonblocking(4), epoll = watched(s, EPOLLOUT | EPOLLONESHOT);
    go(s, place_of(4, ECHO));
    found_by(epoll, LONG);
    found_by(epoll, SHORT);
    struct epoll_event again = {.events = EPOLLOUT | EPOLLONESHOT};
    told("again", epoll_ctl(epoll, EPOLL_CTL_MOD, s, &again));
    found_by(epoll, LONG);
    socket_error(s);
}

CASE(epoll_watches_a_duplicate) {
    int s = nonblocking(4), other = dup(s), epoll = watched(other, EPOLLOUT);
    found_by(epoll, 0);
    go(s, place_of(4, ECHO));
    close(s);
    found_by(epoll, LONG);
    socket_error(other);
    echo(other);
}

CASE(epoll_of_a_closed_socket_is_silent) {
    int s = nonblocking(4), epoll = watched(s, EPOLLOUT);
    go(s, place_of(4, STUCK));
    close(s);
    found_by(epoll, SHORT);
    struct epoll_event again = {.events = EPOLLOUT};
    told("modify", epoll_ctl(epoll, EPOLL_CTL_MOD, s, &again));
}

CASE(epoll_finds_the_end_of_a_half) {
    int s = nonblocking(4), epoll = watched(s, EPOLLRDHUP);
    char got[7] = {0};
    go(s, place_of(4, HALF));
    struct epoll_event event = {0};
    while (epoll_wait(epoll, &event, 1, LONG) == 1 && (event.events & ~EPOLLHUP) == 0) {}
    events("epoll", event.events);
    told("read", read(s, got, 6));
    say(" \"%s\"", got);
    told("read", read(s, got, 6));
}

CASE(select_finds_it) {
    int s = nonblocking(4);
    fd_set writing, failing;
    go(s, place_of(4, ECHO));
    FD_ZERO(&writing);
    FD_ZERO(&failing);
    FD_SET(s, &writing);
    FD_SET(s, &failing);
    struct timeval patience = {LONG / 1000, 0};
    told("select", select(s + 1, NULL, &writing, &failing, &patience));
    say(" out=%d failed=%d", FD_ISSET(s, &writing) != 0, FD_ISSET(s, &failing) != 0);
    socket_error(s);
    echo(s);
}

CASE(select_finds_a_refusal) {
    int s = nonblocking(4);
    fd_set reading, writing, failing;
    go(s, place_of(4, REFUSED));
    wait_for_event(s, POLLOUT, POLLHUP);
    FD_ZERO(&reading);
    FD_SET(s, &reading);
    writing = failing = reading;
    struct timespec patience = {LONG / 1000, 0};
    told("pselect", pselect(s + 1, &reading, &writing, &failing, &patience, NULL));
    say(" in=%d out=%d failed=%d", FD_ISSET(s, &reading) != 0, FD_ISSET(s, &writing) != 0, FD_ISSET(s, &failing) != 0);
    socket_error(s);
}

CASE(ppoll_finds_it) {
    int s = nonblocking(6);
    struct pollfd asked = {s, POLLOUT | POLLIN, 0};
    struct timespec patience = {LONG / 1000, 0};
    go(s, place_of(6, ECHO));
    told("ppoll", ppoll(&asked, 1, &patience, NULL));
    events("found", asked.revents);
}

CASE(poll_for_reading_finds_a_refusal) {
    int s = nonblocking(4);
    go(s, place_of(4, REFUSED));
    wait_for_event(s, POLLIN, POLLHUP);
}

CASE(poll_for_nothing_finds_a_refusal) {
    int s = nonblocking(4);
    go(s, place_of(4, REFUSED));
    wait_for_event(s, 0, POLLHUP);
}

CASE(poll_before_anything) {
    wait_for(stream(4), POLLIN | POLLOUT | POLLRDHUP, 0);
    wait_for(stream(6), POLLIN | POLLOUT | POLLRDHUP, 0);
    wait_for(77, POLLIN, 0);
}

CASE(several_are_waited_for_at_once) {
    struct pollfd asked[12];
    enum service services[] = {ECHO, REFUSED, MUTE};
    for (int i = 0; i < 12; i++) {
        asked[i] = (struct pollfd){nonblocking(i & 1 ? 4 : 6), POLLOUT, 0};
        go(asked[i].fd, place_of(i & 1 ? 4 : 6, services[i % 3]));
    }
    for (int ready = 0; ready < 12;) {
        if (poll(asked, 12, LONG) <= 0) { say(" waits in vain"); return; }
        ready = 0;
        for (int i = 0; i < 12; i++) ready += asked[i].revents != 0;
    }
    for (int i = 0; i < 12; i++) {
        int error;
        socklen_t length = sizeof error;
        getsockopt(asked[i].fd, SOL_SOCKET, SO_ERROR, &error, &length);
        say(" %s", error ? strerrorname_np(error) : "0");
    }
}

static volatile sig_atomic_t ready;
static void is_ready(int number) { ready = number == SIGIO; }

CASE(a_signal_tells_of_it) {
    int s = nonblocking(4);
    signal(SIGIO, is_ready);
    fcntl(s, F_SETOWN, getpid());
    fcntl(s, F_SETFL, O_NONBLOCK | O_ASYNC);
    told("connect", go(s, place_of(4, ECHO)));
    for (int waited = 0; !ready && waited < LONG; waited += 10) usleep(10000);
    say(" ready=%d", ready);
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
}
