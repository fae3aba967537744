/* Runs cases, each in a process of its own and many at a time, and prints a line for each: its name, and what it said.
 *
 *   semantics HOST4 HOST6 FIFO PORT...            every case; the ports are those of `enum service`
 *   semantics HOST4 HOST6 FIFO PORT... -- NAME... only these */
#include "case.h"

enum { MOST = 400, AT_ONCE = 12, PATIENCE = 12 };

static struct { const char *name; void (*run)(void); } cases[MOST];
static int known;
static struct place hosts[2];
static int ports[SERVICES];
static const char *fifo;
static char *said;
static size_t used;
enum { SPACE = 8192 };
char **itself;

static const char *const services[] = {"echo", "closing", "reset", "half", "count", "slow", "mute", "stuck", "refused", "absent", "datagrams"};

void add_case(const char *name, void (*run)(void)) {
    cases[known].name = name;
    cases[known++].run = run;
}

void say(const char *format, ...) {
    va_list list;
    va_start(list, format);
    int error = errno, more = vsnprintf(said + used, SPACE - used, format, list);
    va_end(list);
    if (more > 0 && used + more < SPACE) used += more;
    errno = error;
}

long told(const char *what, long result) {
    if (result >= 0) say(" %s=%ld", what, result);
    else say(" %s=%s", what, strerrorname_np(errno));
    return result;
}

void events(const char *what, unsigned found) {
    static const struct { unsigned bit; const char *name; } known_events[] = {
        {POLLIN, "in"}, {POLLOUT, "out"}, {POLLERR, "err"}, {POLLHUP, "hup"}, {POLLRDHUP, "rdhup"}, {POLLNVAL, "nval"}, {POLLPRI, "pri"}};
    say(" %s=", what);
    if (!found) say("nothing");
    for (size_t i = 0, some = 0; i < sizeof known_events / sizeof *known_events; i++)
        if (found & known_events[i].bit) say("%s%s", some++ ? "|" : "", known_events[i].name);
}

struct place place_of(int family, enum service service) {
    struct place place = hosts[family == 6];
    if (family == 46) {
        struct sockaddr_in v4 = *(struct sockaddr_in *)&place.address;
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
        v6.sin6_addr.s6_addr[10] = v6.sin6_addr.s6_addr[11] = 0xff;
        memcpy(v6.sin6_addr.s6_addr + 12, &v4.sin_addr, 4);
        memset(&place, 0, sizeof place);
        memcpy(&place.address, &v6, place.length = sizeof v6);
    }
    /* The port is in the same place in both. */
    ((struct sockaddr_in *)&place.address)->sin_port = htons(ports[service]);
    return place;
}

int stream(int family) { return socket(family == 4 ? AF_INET : AF_INET6, SOCK_STREAM, 0); }
int nonblocking(int family) { return socket(family == 4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0); }
int go(int s, struct place to) { return connect(s, (struct sockaddr *)&to.address, to.length); }

int connected(int family, enum service service) {
    int s = stream(family);
    if (go(s, place_of(family, service))) told("connect", -1);
    return s;
}

unsigned wait_for(int s, short wanted, int patience) {
    struct pollfd asked = {s, wanted, 0};
    while (poll(&asked, 1, patience) < 0 && errno == EINTR) {}
    events("poll", asked.revents);
    return asked.revents;
}

void wait_for_event(int s, short wanted, unsigned event) {
    struct pollfd asked = {s, wanted, 0};
    for (int waited = 0; waited < LONG && !(asked.revents & event); waited += 5) {
        if (poll(&asked, 1, LONG) <= 0 && errno != EINTR) break;
        if (!(asked.revents & event)) usleep(5000);
    }
    events("poll", asked.revents);
}

int socket_error(int s) {
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &length)) { told("so_error", -1); return errno; }
    say(" so_error=%s", error ? strerrorname_np(error) : "0");
    return error;
}

static int is_host(const struct sockaddr_storage *address) {
    const struct sockaddr_in *v4 = (void *)address, *host4 = (void *)&hosts[0].address;
    const struct sockaddr_in6 *v6 = (void *)address, *host6 = (void *)&hosts[1].address;
    if (address->ss_family == AF_INET) return v4->sin_addr.s_addr == host4->sin_addr.s_addr;
    if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) return !memcmp(v6->sin6_addr.s6_addr + 12, &host4->sin_addr, 4);
    return !memcmp(&v6->sin6_addr, &host6->sin6_addr, 16);
}

void say_place(const char *what, const struct sockaddr_storage *address, socklen_t length) {
    const struct sockaddr_in *v4 = (void *)address;
    const struct sockaddr_in6 *v6 = (void *)address;
    if (length == 0) { say(" %s=none", what); return; }
    int family = address->ss_family, mapped = family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr);
    if (family != AF_INET && family != AF_INET6) { say(" %s=family %d", what, family); return; }
    int port = ntohs(v4->sin_port), any = family == AF_INET ? v4->sin_addr.s_addr == 0 : IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
    int service = 0;
    /* Elsewhere a port may have the same number by chance. */
    while (service < SERVICES && !(ports[service] == port && is_host(address))) service++;
    say(" %s=%s/%s:%s", what, family == AF_INET ? "4" : mapped ? "mapped" : "6",
        any ? "any" : service < SERVICES ? "peer" : "own",
        port == 0 ? "0" : service == SERVICES ? "some" : service >= LATE ? "late" : services[service]);
    if (family == AF_INET6 && (v6->sin6_scope_id || v6->sin6_flowinfo)) say("+scope");
    if (length != (family == AF_INET ? sizeof *v4 : sizeof *v6)) say("+length %d", (int)length);
}

void peer(int s) {
    struct place at = {.length = sizeof at.address};
    if (getpeername(s, (struct sockaddr *)&at.address, &at.length)) told("peer", -1);
    else say_place("peer", &at.address, at.length);
}

void self(int s) {
    struct place at = {.length = sizeof at.address};
    if (getsockname(s, (struct sockaddr *)&at.address, &at.length)) told("self", -1);
    else say_place("self", &at.address, at.length);
}

void echo(int s) {
    char got[6] = {0};
    if (send(s, "hello?", 6, MSG_NOSIGNAL) != 6) { told("send", -1); return; }
    for (int have = 0; have < 6;) {
        struct pollfd asked = {s, POLLIN, 0};
        int more = poll(&asked, 1, LONG) == 1 ? recv(s, got + have, 6 - have, 0) : (errno = ETIME, -1);
        if (more <= 0) { told("recv", more); return; }
        have += more;
    }
    say(" echo=%s", memcmp(got, "hello?", 6) ? "other" : "same");
}

void release(enum service late) {
    int to = open(fifo, O_WRONLY);
    unsigned char which = late - LATE;
    if (to < 0 || write(to, &which, 1) != 1) told("release", -1);
    close(to);
}

void read_all(int s) {
    char got[256];
    int have = 0, more;
    while (have < 200 && (more = read(s, got + have, 200 - have)) > 0) have += more;
    got[have] = 0;
    say(" got=\"%s\"", got);
    if (more < 0) told("then", -1);
}

int server(int type, const char *address, struct place *at) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_PASSIVE, .ai_socktype = type & 15}, *found;
    if (getaddrinfo(address, "0", &hints, &found)) { say(" %s=?", address); return -1; }
    int s = socket(found->ai_family, type, 0);
    at->length = sizeof at->address;
    if (bind(s, found->ai_addr, found->ai_addrlen)) told("bind", -1);
    if ((type & 15) == SOCK_STREAM && listen(s, 16)) told("listen", -1);
    getsockname(s, (struct sockaddr *)&at->address, &at->length);
    freeaddrinfo(found);
    return s;
}

int port_of(struct place *at) { return ntohs(((struct sockaddr_in *)&at->address)->sin_port); }

void in_child(void (*run)(int), int s) {
    size_t *length = shared(sizeof *length);
    pid_t child = fork();
    if (child == 0) {
        run(s);
        *length = used;
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) say(" child=%s", sigabbrev_np(WTERMSIG(status)));
    else used = *length;
}

void *shared(size_t size) { return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); }

static int resolve(const char *name, int family, struct place *place) {
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(name, NULL, &hints, &found);
    if (error) { fprintf(stderr, "%s: %s\n", name, gai_strerror(error)); return -1; }
    memcpy(&place->address, found->ai_addr, place->length = found->ai_addrlen);
    freeaddrinfo(found);
    return 0;
}

static int chosen(const char *name, char **only) {
    if (!*only) return 1;
    for (; *only; only++)
        if (!strcmp(*only, name)) return 1;
    return 0;
}

int main(int count, char **arguments) {
    itself = arguments;
    /* What an exec'd copy is asked for: who is at a descriptor's other end. */
    if (count == 3 && !strcmp(arguments[1], "whois")) {
        struct place at = {.length = sizeof at.address};
        int s = atoi(arguments[2]);
        return getpeername(s, (struct sockaddr *)&at.address, &at.length) ? errno : 0;
    }
    if (count < 4 + SERVICES) return 2;
    fifo = arguments[3];
    for (int i = 0; i < SERVICES; i++) ports[i] = atoi(arguments[4 + i]);
    if (resolve(arguments[1], AF_INET, &hosts[0]) || resolve(arguments[2], AF_INET6, &hosts[1])) return 3;
    char **only = arguments + 4 + SERVICES + (count > 4 + SERVICES);
    pid_t running[MOST];
    char *words[MOST];
    int begun = 0, ended = 0;
    for (int i = 0; i < known; i++) words[i] = shared(SPACE);
    while (ended < known) {
        if (begun < known && begun - ended < AT_ONCE) {
            int now = begun++;
            if (!chosen(cases[now].name, only)) { running[now] = 0; continue; }
            running[now] = fork();
            if (running[now] == 0) {
                setsid();
                said = words[now];
                cases[now].run();
                _exit(0);
            }
            continue;
        }
        int now = ended++, status = 0, waited = 0;
        if (!running[now]) continue;
        while (waitpid(running[now], &status, WNOHANG) == 0 && waited++ < PATIENCE * 100) usleep(10000);
        if (waited > PATIENCE * 100) { kill(-running[now], SIGKILL); waitpid(running[now], &status, 0); strcat(words[now], " HANGS"); }
        printf("%s%s", cases[now].name, words[now]);
        if (WIFSIGNALED(status)) printf(" ends=%s", sigabbrev_np(WTERMSIG(status)));
        else if (WEXITSTATUS(status)) printf(" ends=%d", WEXITSTATUS(status));
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
