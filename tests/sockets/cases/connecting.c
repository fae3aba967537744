/* connect() that waits, and what it says of what is given to it. */
#include "case.h"

static void visit(int family) {
    int s = stream(family);
    self(s);
    peer(s);
    told("connect", go(s, place_of(family, ECHO)));
    peer(s);
    self(s);
    socket_error(s);
    echo(s);
    told("close", close(s));
    peer(s);
}

CASE(connect_v4) { visit(4); }
CASE(connect_v6) { visit(6); }
CASE(connect_mapped) { visit(46); }

CASE(connect_mapped_on_v6_only) {
    int s = stream(6), one = 1;
    told("set", setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one));
    told("connect", go(s, place_of(46, ECHO)));
    told("connect", go(s, place_of(6, ECHO)));
}

static void be_refused(int family, enum service service) {
    int s = stream(family);
    told("connect", go(s, place_of(family, service)));
    peer(s);
    socket_error(s);
    wait_for(s, POLLIN | POLLOUT, SHORT);
    told("again", go(s, place_of(family, service)));
    told("other", go(s, place_of(family, ECHO)));
    peer(s);
    echo(s);
}

CASE(connect_refused_v4) { be_refused(4, REFUSED); }
CASE(connect_refused_v6) { be_refused(6, REFUSED); }
CASE(connect_refused_mapped) { be_refused(46, REFUSED); }
CASE(connect_absent_v4) { be_refused(4, ABSENT); }
CASE(connect_absent_v6) { be_refused(6, ABSENT); }

CASE(connect_port_0) {
    struct place to = place_of(4, ECHO);
    ((struct sockaddr_in *)&to.address)->sin_port = 0;
    told("v4", go(stream(4), to));
    to = place_of(6, ECHO);
    ((struct sockaddr_in6 *)&to.address)->sin6_port = 0;
    told("v6", go(stream(6), to));
}

CASE(connect_twice) {
    int s = connected(4, ECHO);
    told("same", go(s, place_of(4, ECHO)));
    told("other", go(s, place_of(4, MUTE)));
    echo(s);
}

CASE(connect_again_after_the_end) {
    int s = connected(4, CLOSING);
    read_all(s);
    told("again", go(s, place_of(4, ECHO)));
}

CASE(connect_other_family) {
    told("v6 on v4", go(stream(4), place_of(6, ECHO)));
    told("v4 on v6", go(stream(6), place_of(4, ECHO)));
    struct place to = place_of(4, ECHO);
    to.length = 28;
    told("long v4 on v6", go(stream(6), to));
    to.address.ss_family = 99;
    told("99", go(stream(4), to));
    to.address.ss_family = AF_UNIX;
    told("unix", go(stream(4), to));
}

CASE(connect_lengths) {
    struct place to = place_of(4, ECHO);
    static const int lengths[] = {0, 1, 2, 8, 15, -1, 129, 1 << 30};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        say(" %d", lengths[i]);
        told("", connect(stream(4), (void *)&to.address, lengths[i]));
    }
    to.length = 128;
    told("all of it", go(stream(4), to));
    to = place_of(6, ECHO);
    to.length = 24;
    told("old v6", go(stream(6), to));
    to.length = 23;
    told("short v6", go(stream(6), to));
}

CASE(connect_bad_descriptor) {
    struct place to = place_of(4, ECHO);
    told("-1", go(-1, to));
    told("closed", go(77, to));
    told("file", go(open("/dev/null", O_RDWR), to));
    int ends[2];
    if (pipe(ends)) return;
    told("pipe", go(ends[0], to));
    told("path", go(open("/", O_PATH), to));
}

CASE(connect_bad_pointer) {
    told("null", connect(stream(4), NULL, 16));
    told("one", connect(stream(4), (void *)1, 16));
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    struct place to = place_of(4, ECHO);
    memcpy(page + 4096 - 8, &to.address, 8);
    told("torn", connect(stream(4), (void *)(page + 4096 - 8), 16));
    memcpy(page + 4096 - 16, &to.address, 16);
    told("at the edge", connect(stream(4), (void *)(page + 4096 - 16), 16));
    /* A bad descriptor is found first. */
    told("both", connect(-1, NULL, 16));
}

CASE(connect_from_read_only_memory) {
    struct place *to = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *to = place_of(4, ECHO);
    mprotect(to, 4096, PROT_READ);
    int s = stream(4);
    told("connect", connect(s, (void *)&to->address, to->length));
    echo(s);
}

static int unspecified(int s) {
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    return connect(s, &none, sizeof none);
}

CASE(disconnect) {
    int s = connected(4, ECHO);
    told("disconnect", unspecified(s));
    peer(s);
    wait_for(s, POLLIN | POLLOUT, SHORT);
    told("send", send(s, "x", 1, MSG_NOSIGNAL));
    told("connect", go(s, place_of(4, ECHO)));
    peer(s);
    echo(s);
}

CASE(disconnect_what_is_not_connected) {
    int s = stream(4);
    told("v4", unspecified(s));
    told("v6", unspecified(stream(6)));
    told("connect", go(s, place_of(4, ECHO)));
    echo(s);
}

CASE(disconnect_under_way) {
    int s = nonblocking(4);
    told("connect", go(s, place_of(4, STUCK)));
    told("disconnect", unspecified(s));
    peer(s);
    socket_error(s);
    told("connect", go(s, place_of(4, ECHO)));
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    echo(s);
}

CASE(bind_before_connect) {
    int s = stream(4);
    struct sockaddr_in any = {.sin_family = AF_INET};
    told("bind", bind(s, (void *)&any, sizeof any));
    self(s);
    struct place before = {.length = sizeof before.address}, after = before;
    getsockname(s, (void *)&before.address, &before.length);
    told("connect", go(s, place_of(4, ECHO)));
    getsockname(s, (void *)&after.address, &after.length);
    say(" %s port", port_of(&before) == port_of(&after) ? "same" : "other");
    self(s);
    echo(s);
}

CASE(bind_to_loopback_before_connect) {
    int s = stream(4);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    told("bind", bind(s, (void *)&here, sizeof here));
    told("connect", go(s, place_of(4, ECHO)));
    struct sockaddr_in after;
    socklen_t length = sizeof after;
    getsockname(s, (void *)&after, &length);
    say(" %s", inet_ntoa(after.sin_addr));
    echo(s);
}

CASE(bind_after_connect) {
    int s = connected(4, ECHO);
    struct sockaddr_in any = {.sin_family = AF_INET};
    told("bind", bind(s, (void *)&any, sizeof any));
    told("listen", listen(s, 1));
}

CASE(two_sockets_from_one_port) {
    int one = 1, first = stream(4), second = stream(4);
    struct sockaddr_in any = {.sin_family = AF_INET};
    socklen_t length = sizeof any;
    setsockopt(first, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(second, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    told("bind", bind(first, (void *)&any, sizeof any));
    getsockname(first, (void *)&any, &length);
    told("bind", bind(second, (void *)&any, sizeof any));
    told("connect", go(first, place_of(4, ECHO)));
    told("connect", go(second, place_of(4, COUNT)));
    echo(first);
}

CASE(a_listener_does_not_connect) {
    struct place at;
    int s = server(SOCK_STREAM, "127.0.0.1", &at);
    told("connect", go(s, place_of(4, ECHO)));
    socket_error(s);
}

CASE(other_kinds_of_sockets_connect_nowhere) {
    int s = socket(AF_UNIX, SOCK_STREAM, 0), pair[2];
    told("unix", go(s, place_of(4, ECHO)));
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return;
    told("pair", go(pair[0], place_of(4, ECHO)));
}

static void *connects(void *of) {
    return (void *)(long)(go(*(int *)of, place_of(4, LATE)) ? errno : 0);
}

CASE(two_threads_connect_one_socket) {
    int s = stream(4);
    pthread_t first, second;
    void *one, *other;
    pthread_create(&first, NULL, connects, &s);
    pthread_create(&second, NULL, connects, &s);
    usleep(100000);
    release(LATE);
    pthread_join(first, &one);
    pthread_join(second, &other);
    say(" one=%ld other=%ld", (long)one, (long)other);
    peer(s);
    echo(s);
}

static void *visits(void *mine) {
    int s = stream((long)mine & 1 ? 4 : 6);
    long error = go(s, place_of((long)mine & 1 ? 4 : 6, ECHO)) ? errno : 0;
    char got = 0;
    if (!error && (send(s, &mine, 1, 0) != 1 || recv(s, &got, 1, 0) != 1 || got != (char)(long)mine)) error = EBADMSG;
    close(s);
    return (void *)error;
}

CASE(many_threads_connect) {
    pthread_t threads[24];
    int failed = 0;
    for (long i = 0; i < 24; i++) pthread_create(&threads[i], NULL, visits, (void *)i);
    for (int i = 0; i < 24; i++) {
        void *error;
        pthread_join(threads[i], &error);
        failed += error != NULL;
    }
    say(" failed=%d", failed);
}

CASE(connect_by_the_bare_call) {
    struct place to = place_of(4, ECHO);
    int s = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    told("connect", syscall(SYS_connect, s, &to.address, to.length));
    peer(s);
    echo(s);
    /* The upper half of a descriptor's register does not count. */
    told("again", syscall(SYS_connect, s | 1L << 40, &to.address, to.length));
}

static int rung;
static void ring(int number) { rung += number == SIGALRM; }

static void alarm_in(int milliseconds, int flags) {
    struct sigaction action = {.sa_handler = ring, .sa_flags = flags};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval when = {.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000}};
    setitimer(ITIMER_REAL, &when, NULL);
}

CASE(a_signal_interrupts_connect) {
    int s = stream(4);
    alarm_in(SHORT, 0);
    told("connect", go(s, place_of(4, LATE + 1)));
    say(" rung=%d", rung);
    peer(s);
    wait_for(s, POLLIN | POLLOUT, 0);
    fcntl(s, F_SETFL, O_NONBLOCK);
    told("again", go(s, place_of(4, LATE + 1)));
    release(LATE + 1);
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    echo(s);
}

static void goes_on(int number) {
    rung += number == SIGALRM;
    release(LATE + 2);
}

CASE(a_signal_that_restarts_calls_does_not_interrupt_connect) {
    int s = stream(4);
    alarm_in(SHORT, SA_RESTART);
    signal(SIGALRM, goes_on); /* with SA_RESTART, too */
    told("connect", go(s, place_of(4, LATE + 2)));
    say(" rung=%d", rung);
    peer(s);
    echo(s);
}

CASE(connect_has_the_patience_of_its_socket) {
    int s = stream(4);
    struct timeval patience = {0, 300000};
    told("set", setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience));
    told("connect", go(s, place_of(4, STUCK)));
    peer(s);
    fcntl(s, F_SETFL, O_NONBLOCK);
    told("again", go(s, place_of(4, STUCK)));
    socket_error(s);
}

static void waits_for_ever(int s) { go(s, place_of(4, STUCK)); }

CASE(who_waits_in_connect_can_be_killed) {
    int s = stream(4), status;
    pid_t child = fork();
    if (child == 0) {
        waits_for_ever(s);
        _exit(1);
    }
    usleep(100000);
    kill(child, SIGKILL);
    told("wait", waitpid(child, &status, 0) == child ? 0 : -1);
    say(" by=%s", WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : "itself");
}

CASE(who_waits_in_connect_can_be_stopped) {
    int s = stream(4), status;
    pid_t child = fork();
    if (child == 0) {
        int error = go(s, place_of(4, LATE + 3)) ? errno : 0;
        _exit(error);
    }
    usleep(100000);
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    say(" stopped=%d", WIFSTOPPED(status) != 0);
    kill(child, SIGCONT);
    release(LATE + 3);
    waitpid(child, &status, 0);
    say(" ended=%d", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    peer(s);
    echo(s);
}

CASE(fast_open) {
    struct place to = place_of(4, ECHO);
    int s = stream(4), one = 1;
    told("sendto", sendto(s, "x", 1, MSG_FASTOPEN, (void *)&to.address, to.length));
    struct iovec part = {"x", 1};
    struct msghdr message = {.msg_name = &to.address, .msg_namelen = to.length, .msg_iov = &part, .msg_iovlen = 1};
    told("sendmsg", sendmsg(s, &message, MSG_FASTOPEN));
    struct mmsghdr messages = {.msg_hdr = message};
    told("sendmmsg", sendmmsg(s, &messages, 1, MSG_FASTOPEN));
    told("without an address", send(s, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL));
    told("set", setsockopt(s, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one));
    told("connect", go(s, to));
    echo(s);
}

CASE(sockets_that_there_are_not) {
    told("udp of streams", socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    told("tcp of datagrams", socket(AF_INET6, SOCK_DGRAM, IPPROTO_TCP));
    told("kind 9", socket(AF_INET, 9, 0));
    told("kind 0", socket(AF_INET, 0, 0));
    told("family 99", socket(99, SOCK_STREAM, 0));
    told("flags", socket(AF_INET, SOCK_STREAM | 0x100, 0));
    told("protocol 255", socket(AF_INET, SOCK_STREAM, 255));
    told("negative protocol", socket(AF_INET, SOCK_STREAM, -1));
    told("sequenced", socket(AF_INET, SOCK_SEQPACKET, 0));
}

CASE(no_descriptor_is_left) {
    struct rlimit few = {16, 16};
    setrlimit(RLIMIT_NOFILE, &few);
    while (dup(0) >= 0) {}
    told("socket", stream(4));
    close(15);
    told("socket", stream(4));
    told("connect", go(15, place_of(4, ECHO)));
    told("socket", stream(6));
    echo(15);
}
