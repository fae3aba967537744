/* A socket under other numbers, in other processes, and in other programs. */
#include "case.h"

CASE(duplicates_are_the_same) {
    int s = stream(4), before = dup(s);
    told("connect", go(s, place_of(4, ECHO)));
    int after = fcntl(s, F_DUPFD_CLOEXEC, 50), third = dup2(s, 60), fourth = dup3(s, 61, O_CLOEXEC);
    peer(before);
    peer(after);
    peer(third);
    peer(fourth);
    close(s);
    peer(before);
    echo(third);
    told("again", go(fourth, place_of(4, ECHO)));
}

CASE(dup2_over_a_connected_socket) {
    int first = connected(4, ECHO), second = connected(6, MUTE);
    told("dup2", dup2(second, first) == first ? 0 : -1);
    peer(first);
    close(second);
    peer(first);
}

CASE(a_number_is_used_again) {
    int s = connected(4, ECHO);
    close(s);
    peer(s);
    int again = stream(6);
    say(" %s number", s == again ? "same" : "other");
    peer(again);
    self(again);
    socket_error(again);
    told("connect", go(again, place_of(6, ECHO)));
    peer(again);
    echo(again);
}

CASE(all_are_closed_at_once) {
    int s = connected(4, ECHO), other = connected(6, ECHO);
    told("close_range", syscall(SYS_close_range, s, ~0U, 0));
    peer(s);
    peer(other);
    int again = stream(4);
    say(" %s number", s == again ? "same" : "other");
    peer(again);
    told("connect", go(again, place_of(4, ECHO)));
    echo(again);
}

static void child_looks(int s) {
    peer(s);
    self(s);
    echo(s);
}

CASE(a_child_has_it) {
    int s = connected(4, ECHO);
    in_child(child_looks, s);
    echo(s);
}

static void child_connects(int s) { told("connect", go(s, place_of(4, ECHO))); }

CASE(a_child_connects_it) {
    int s = stream(4);
    in_child(child_connects, s);
    peer(s);
    echo(s);
}

CASE(a_child_of_a_child_connects_when_its_parents_are_gone) {
    int words[2];
    if (pipe(words)) return;
    if (fork() == 0) {
        if (fork() == 0) {
            setsid();
            for (int waited = 0; getppid() != 1 && waited < 100; waited++) usleep(1000);
            int s = stream(4);
            char word = go(s, place_of(4, ECHO)) ? errno : 0;
            if (write(words[1], &word, 1) != 1) _exit(1);
        }
        _exit(0);
    }
    wait(NULL);
    char word = -1;
    if (read(words[0], &word, 1) != 1) return;
    say(" connect=%d", word);
}

static int spawned(int (*spawn)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *, char *const *), int s) {
    char number[12], *arguments[] = {itself[0], "whois", number, NULL}, *nothing[] = {NULL};
    snprintf(number, sizeof number, "%d", s);
    pid_t child;
    int status = -1, error = spawn(&child, "/proc/self/exe", NULL, NULL, arguments, nothing);
    if (error) { errno = error; return -1; }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

CASE(another_program_has_it) {
    int s = connected(4, ECHO);
    int error = spawned(posix_spawn, s);
    say(" there=%s", error ? strerrorname_np(error) : "connected");
    echo(s);
}

CASE(another_program_has_it_not) {
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    say(" flag=%d", fcntl(s, F_GETFD));
    go(s, place_of(4, ECHO));
    say(" flag=%d", fcntl(s, F_GETFD));
    int error = spawned(posix_spawn, s);
    say(" there=%s", error ? strerrorname_np(error) : "connected");
}

CASE(exec_goes_on_with_it) {
    int s = connected(6, ECHO), status;
    pid_t child = fork();
    if (child == 0) {
        char number[12];
        snprintf(number, sizeof number, "%d", s);
        execl("/proc/self/exe", itself[0], "whois", number, NULL);
        _exit(99);
    }
    waitpid(child, &status, 0);
    say(" there=%d", WEXITSTATUS(status));
    echo(s);
}

CASE(vfork_and_exec) {
    int s = connected(4, ECHO), status;
    char number[12];
    snprintf(number, sizeof number, "%d", s);
    pid_t child = vfork();
    if (child == 0) {
        execl("/proc/self/exe", itself[0], "whois", number, NULL);
        _exit(99);
    }
    waitpid(child, &status, 0);
    say(" there=%d", WEXITSTATUS(status));
}

static void pass(int by, int s) {
    char word = 0, space[CMSG_SPACE(sizeof s)] = {0};
    struct iovec part = {&word, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){CMSG_LEN(sizeof s), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(head), &s, sizeof s);
    told("pass", sendmsg(by, &message, 0));
}

static int taken(int by) {
    int s = -1;
    char word, space[CMSG_SPACE(sizeof s)];
    struct iovec part = {&word, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    if (recvmsg(by, &message, 0) == 1 && CMSG_FIRSTHDR(&message)) memcpy(&s, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof s);
    return s;
}

static void takes_and_looks(int by) {
    int s = taken(by);
    peer(s);
    echo(s);
}

static void makes_and_passes(int by) { pass(by, connected(4, ECHO)); }
static void makes_and_passes_fresh(int by) { pass(by, stream(4)); }

CASE(it_is_passed_to_another_process) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return;
    int s = connected(4, ECHO);
    pass(ends[0], s);
    close(s);
    in_child(takes_and_looks, ends[1]);
}

CASE(it_is_taken_from_another_process) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends)) return;
    in_child(makes_and_passes, ends[0]);
    int s = taken(ends[1]);
    peer(s);
    echo(s);
    in_child(makes_and_passes_fresh, ends[0]);
    s = taken(ends[1]);
    told("connect", go(s, place_of(4, ECHO)));
    peer(s);
    echo(s);
}

CASE(it_is_passed_while_it_is_under_way) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return;
    int s = nonblocking(4);
    told("connect", go(s, place_of(4, LATE + 6)));
    pass(ends[0], s);
    close(s);
    release(LATE + 6);
    s = taken(ends[1]);
    wait_for(s, POLLOUT, LONG);
    socket_error(s);
    peer(s);
    echo(s);
}

CASE(what_a_descriptor_says_of_itself) {
    int s = connected(4, ECHO);
    struct stat about;
    char path[40], link[40] = {0};
    fstat(s, &about);
    say(" socket=%d", S_ISSOCK(about.st_mode));
    snprintf(path, sizeof path, "/proc/self/fd/%d", s);
    if (readlink(path, link, 7) < 0) told("readlink", -1);
    say(" %s", link);
    told("open", open(path, O_RDWR));
    told("seek", lseek(s, 0, SEEK_CUR));
    int flags = fcntl(s, F_GETFL);
    say(" mode=%d nonblocking=%d", flags & O_ACCMODE, (flags & O_NONBLOCK) != 0);
}

CASE(flags_of_a_new_socket) {
    static const int flags[] = {0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC};
    for (int i = 0; i < 4; i++) {
        int s = socket(i & 1 ? AF_INET : AF_INET6, SOCK_STREAM | flags[i], i & 1 ? IPPROTO_TCP : 0);
        say(" %d/%d", (fcntl(s, F_GETFL) & O_NONBLOCK) != 0, fcntl(s, F_GETFD));
    }
}

CASE(the_lowest_number_is_taken) {
    int first = stream(4), second = stream(6), third = socket(AF_INET, SOCK_DGRAM, 0);
    say(" %d %d", second - first, third - first);
    close(second);
    say(" %d", socket(AF_INET6, SOCK_STREAM, 0) - first);
}

static void *ends_early(void *at) {
    int s = *(int *)at;
    usleep(100000);
    close(s);
    return NULL;
}

CASE(another_thread_closes_what_is_waited_for) {
    int s = nonblocking(4);
    pthread_t thread;
    go(s, place_of(4, STUCK));
    pthread_create(&thread, NULL, ends_early, &s);
    struct pollfd asked = {s, POLLOUT, 0};
    told("poll", poll(&asked, 1, 400));
    pthread_join(thread, NULL);
    peer(s);
}

CASE(unix_sockets_are_as_ever) {
    int ends[2];
    char got[4] = {0}, path[64];
    told("pair", socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    told("send", send(ends[0], "ab", 2, 0));
    told("recv", recv(ends[1], got, 4, 0));
    snprintf(path, sizeof path, "socket-%d", getpid());
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strcpy(at.sun_path, path);
    int s = socket(AF_UNIX, SOCK_STREAM, 0), visitor = socket(AF_UNIX, SOCK_STREAM, 0);
    told("nobody", connect(visitor, (void *)&at, sizeof at));
    told("bind", bind(s, (void *)&at, sizeof at));
    told("refused", connect(visitor, (void *)&at, sizeof at));
    told("listen", listen(s, 1));
    told("connect", connect(visitor, (void *)&at, sizeof at));
    told("again", connect(visitor, (void *)&at, sizeof at));
    told("accept", accept(s, NULL, NULL) < 0 ? -1 : 0);
    int d = socket(AF_UNIX, SOCK_DGRAM, 0);
    told("other kind", connect(d, (void *)&at, sizeof at));
    unlink(path);
    /* Without a name in the file system. */
    struct sockaddr_un hidden = {.sun_family = AF_UNIX};
    snprintf(hidden.sun_path + 1, 60, "semantics-%d", getpid());
    s = socket(AF_UNIX, SOCK_DGRAM, 0);
    told("bind", bind(s, (void *)&hidden, sizeof hidden));
    told("sendto", sendto(d, "x", 1, 0, (void *)&hidden, sizeof hidden));
    told("connect", connect(d, (void *)&hidden, sizeof hidden));
    told("send", send(d, "xy", 2, 0));
    told("recv", recv(s, got, 4, 0));
    told("recv", recv(s, got, 4, 0));
}
