/* The executable /opt/cni/bin/ovsnet in C: passes a CNI call to the agent and prints its answer.

   The same program as client.py, which says what it owns, what it never does and which variables it knows; that one
   is installed where no C compiler is. The tests run against both. Runtimes start it for every pod, and a start of
   Python takes twenty times as long as all of this. `executable` compiles it. The framing is that of framing.py.
   Everything that goes wrong ends in fail(); nothing is freed or closed, because the process ends. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/ovsnet/agent.sock"
#define DEFAULT_TIMEOUT 60.0
#define NEWEST_VERSION "1.1.0"
#define VERSIONS(between) "0.3.1" between "0.4.0" between "1.0.0" between NEWEST_VERSION
#define SEE_LOG "see the agent's log"
enum { CHUNK = 65536, MAX_STDIN = 900000, MAX_REPLY = 4 << 20 };

static const char usage[] =
    "ovsnet: a CNI plugin, called by container runtimes; it passes the call to ovsnet's agent on this node.\n"
    "Set CNI_COMMAND (ADD, DEL, CHECK, GC, STATUS, VERSION) and the other CNI_* variables, and send the network\n"
    "configuration on standard input. `ovsnet show` tells what is attached.\n";

static char configuration[MAX_STDIN + CHUNK]; /* what came on standard input */
static size_t configuration_size;
static double deadline; /* of the whole call, in seconds of the monotonic clock */

/* The configuration: JSON, two strings of which are of interest here. */

static const char *after_space(const char *at, const char *end)
{
    while (at < end && memchr(" \t\r\n", *at, 4))
        at++;
    return at;
}

/* The string that this key has at the top, as it stands there; its size, 0 if there is none.

   The same words may stand deeper or inside of a string, so everything is passed over properly. Nothing is
   refused: that is the agent's task. Where client.py decodes JSON and this does not, a key or a string that has
   escapes, or broken JSON, leads to another socket or version in an error, never to more. */
static size_t look_up(const char *key, const char **found)
{
    const char *at = configuration, *end = configuration + configuration_size;
    size_t size = 0, depth = 0;
    bool wanted = false; /* the string that comes is the value */
    for (; at < end; at++) {
        if (*at == '{' || *at == '[')
            depth++;
        else if ((*at == '}' || *at == ']') && depth > 0)
            depth--;
        if (*at != '"')
            continue;
        const char *start = ++at;
        while (at < end && *at != '"')
            at += *at == '\\' ? 2 : 1;
        if (at >= end)
            return size;
        if (wanted) {
            *found = start;
            size = (size_t)(at - start);
        }
        const char *next = after_space(at + 1, end);
        wanted = depth == 1 && next < end && *next == ':' && strlen(key) == (size_t)(at - start) &&
                 memcmp(start, key, strlen(key)) == 0;
        if (wanted) { /* the last one counts, whatever it is */
            size = 0;
            next = after_space(next + 1, end);
            wanted = next < end && *next == '"';
        }
    }
    return size;
}

/* cniVersion, our newest if it can't be told. */
static void print_version(void)
{
    const char *found;
    size_t size = look_up("cniVersion", &found);
    for (size_t at = 0; at < size; at++)
        if (found[at] < ' ' || found[at] > '~' || found[at] == '\\')
            size = 0;
    printf("{\"cniVersion\": \"%.*s\"", size ? (int)size : (int)strlen(NEWEST_VERSION), size ? found : NEWEST_VERSION);
}

/* The size of the UTF-8 character that the bytes begin with, and the character; 0 if it is none. */
static size_t decode(const char *bytes, size_t left, uint32_t *point)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char first = (unsigned char)bytes[0];
    size_t size = first < 0x80 ? 1 : first < 0xc0 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf8 ? 4 : 0;
    if (size == 0 || size > left)
        return 0;
    *point = size == 1 ? first : first & (0x7fu >> size);
    for (size_t at = 1; at < size; at++) {
        if (((unsigned char)bytes[at] & 0xc0) != 0x80)
            return 0;
        *point = *point << 6 | ((unsigned char)bytes[at] & 0x3f);
    }
    bool surrogate = *point >= 0xd800 && *point <= 0xdfff;
    return *point >= least[size] && *point <= 0x10ffff && !surrogate ? size : 0;
}

/* Text inside of a JSON string. Paths and variables are any bytes: what is not UTF-8 becomes \xNN. */
static void print_escaped(const char *text)
{
    for (size_t left = strlen(text), size; left > 0; text += size, left -= size) {
        uint32_t point = 0;
        size = decode(text, left, &point);
        if (size == 0) {
            printf("\\\\x%02x", (unsigned)(unsigned char)*text);
            size = 1;
        } else if (point == '"' || point == '\\')
            printf("\\%c", (int)point);
        else if (point >= ' ' && point <= '~')
            putchar((int)point);
        else if (point <= 0xffff)
            printf("\\u%04x", (unsigned)point);
        else /* two surrogates */
            printf("\\u%04x\\u%04x", (unsigned)(0xd7c0 + (point >> 10)), (unsigned)(0xdc00 + (point & 0x3ff)));
    }
}

/* A CNI error (specification 1.1, section "Error"); the message is the parts in a row. */
#define FAIL(code, hint, ...) fail(code, hint, (const char *const[]){__VA_ARGS__, NULL})

static _Noreturn void fail(int code, const char *hint, const char *const *message)
{
    print_version();
    printf(", \"code\": %d, \"msg\": \"", code);
    for (; *message; message++)
        print_escaped(*message);
    printf("\", \"details\": \"%s\"}", hint);
    fflush(stdout);
    _exit(1);
}

static const char *variable(const char *name)
{
    const char *text = getenv(name);
    return text ? text : "";
}

/* The code where the agent gave no whole answer: the runtime may repeat the call. */
static int unreachable(void) { return strcmp(variable("CNI_COMMAND"), "STATUS") == 0 ? 50 : 11; }

static _Noreturn void no_command(int argc, char **argv)
{
    bool version_only = false;
    for (int at = 1; at < argc; at++)
        version_only = version_only || strcmp(argv[at], "--version") == 0;
    dprintf(STDERR_FILENO, "%sovsnet CNI plugin, specification versions " VERSIONS(", ") "\n",
            version_only ? "" : usage);
    FAIL(4, "one of ADD, DEL, CHECK, GC, STATUS, VERSION", "CNI_COMMAND: missing");
}

/* OVSNET_TIMEOUT. strtod alone would also take hexadecimal numbers and words. */
static double timeout(void)
{
    const char *text = variable("OVSNET_TIMEOUT");
    char *end;
    if (!*text)
        return DEFAULT_TIMEOUT;
    double seconds = strtod(text, &end);
    bool sound = !text[strspn(text, "0123456789.eE+- \t\r\n")] && !end[strspn(end, " \t\r\n")];
    if (!sound || !(seconds > 0 && seconds <= 86400))
        FAIL(4, "1 to 86400, or leave it unset", "OVSNET_TIMEOUT: '", text, "' is no number of seconds");
    return seconds;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Whether there is something to do with the descriptor, an error included, before the deadline. */
static bool ready(int descriptor, short events)
{
    struct pollfd one = {descriptor, events, 0};
    int count;
    do {
        double left = deadline - now();
        count = poll(&one, 1, left > 0 ? (int)(left * 1000) + 1 : 1);
    } while (count < 0 && errno == EINTR);
    return count != 0;
}

static void read_configuration(void)
{
    size_t size = 0;
    while (size <= MAX_STDIN) {
        if (!ready(STDIN_FILENO, POLLIN))
            FAIL(5, "the runtime writes the configuration and closes it", "stdin has no end");
        ssize_t count = read(STDIN_FILENO, configuration + size, CHUNK);
        if (count == 0) {
            configuration_size = size;
            return;
        }
        if (count < 0 && errno != EINTR)
            FAIL(5, "the runtime sends the configuration there", "stdin: ", strerror(errno));
        size += count > 0 ? (size_t)count : 0;
    }
    char limit[16];
    snprintf(limit, sizeof limit, "%d", MAX_STDIN);
    FAIL(7, "is the right file on stdin?", "a network configuration of more than ", limit, " bytes");
}

/* A path that JSON would have to unescape is not understood and leads to unreachable(), which names it. */
static const char *socket_path(void)
{
    static char path[MAX_STDIN + 1];
    const char *found;
    if (*variable("OVSNET_SOCKET"))
        return variable("OVSNET_SOCKET");
    size_t size = look_up("agentSocket", &found);
    if (size == 0 || memchr(found, '\0', size))
        return DEFAULT_SOCKET;
    memcpy(path, found, size);
    return path;
}

/* A descriptor of CNI_NETNS or -1, and why not. O_NONBLOCK: a FIFO must not hold this up. */
static int open_netns(const char **problem)
{
    const char *path = variable("CNI_NETNS");
    *problem = NULL;
    if (!*path)
        return -1;
    int netns = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (netns < 0)
        *problem = strerror(errno);
    return netns;
}

/* Whether the agent gets this entry of the environment: a CNI_* variable, the first of its name. */
static bool passed_on(char **entry)
{
    const char *equals = strchr(*entry, '=');
    if (!equals || strncmp(*entry, "CNI_", 4) != 0)
        return false;
    for (char **earlier = environ; earlier < entry; earlier++)
        if (strncmp(*earlier, *entry, (size_t)(equals - *entry) + 1) == 0)
            return false;
    return true;
}

/* The request as framing.py describes it, in one piece: the agent is woken once. NULL without memory. */
static char *request(const char *problem, size_t *size)
{
    static const char name[] = "OVSNET_NETNS_ERROR=";
    char header[32];
    size_t body = 1 + configuration_size + (problem ? strlen(name) + strlen(problem) + 1 : 0);
    for (char **entry = environ; *entry; entry++)
        body += passed_on(entry) ? strlen(*entry) + 1 : 0;
    *size = (size_t)snprintf(header, sizeof header, "OVSNET1 %zu\n", body) + body;
    char *data = malloc(*size), *at = data;
    if (!data)
        return NULL;
    at = stpcpy(at, header);
    for (char **entry = environ; *entry; entry++)
        if (passed_on(entry))
            at = stpcpy(at, *entry) + 1;
    if (problem)
        at = stpcpy(stpcpy(at, name), problem) + 1;
    *at++ = '\0';
    memcpy(at, configuration, configuration_size);
    return data;
}

/* Blocking, with the kernel's time-out: where it may not block, a full backlog is an error at once. */
static int reach(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *why = "AF_UNIX path too long";
    if (strlen(path) < sizeof address.sun_path) {
        strcpy(address.sun_path, path);
        double left = deadline - now() > 1e-6 ? deadline - now() : 0;
        struct timeval limit = {(time_t)left, (suseconds_t)((left - (double)(time_t)left) * 1e6)};
        limit.tv_usec += limit.tv_sec == 0 && limit.tv_usec == 0; /* 0 would be no limit */
        int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), done = -1;
        if (agent >= 0 && setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0)
            do
                done = connect(agent, (struct sockaddr *)&address, sizeof address);
            while (done < 0 && errno == EINTR);
        if (done == 0)
            return agent;
        why = strerror(errno);
    }
    FAIL(unreachable(), "start ovsnet's agent; OVSNET_SOCKET or the key agentSocket name another socket",
         "no agent answers at ", path, ": ", why);
}

/* errno is ETIMEDOUT where it was the deadline. */
static bool send_all(int agent, char *data, size_t size, int netns)
{
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr aligned; } rights = {{0}};
    for (size_t sent = 0; sent < size;) {
        struct iovec part = {data + sent, size - sent};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (sent == 0 && netns >= 0) { /* the first bytes carry the descriptor */
            message.msg_control = rights.space;
            message.msg_controllen = sizeof rights.space;
            *CMSG_FIRSTHDR(&message) = (struct cmsghdr){
                .cmsg_len = CMSG_LEN(sizeof netns), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
            memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &netns, sizeof netns);
        }
        errno = ETIMEDOUT;
        if (!ready(agent, POLLOUT))
            return false;
        ssize_t count = sendmsg(agent, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        sent += count > 0 ? (size_t)count : 0;
    }
    return shutdown(agent, SHUT_WR) == 0;
}

/* Until the agent closes or there is more than a reply is ever. errno as above. */
static bool receive(int agent, char *reply, size_t *size)
{
    for (*size = 0; *size < MAX_REPLY;) {
        errno = ETIMEDOUT;
        if (!ready(agent, POLLIN))
            return false;
        ssize_t count = recv(agent, reply + *size, MAX_REPLY - *size, MSG_DONTWAIT);
        if (count == 0)
            return true;
        if (count < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        *size += count > 0 ? (size_t)count : 0;
    }
    return true;
}

/* A number of some digits that ends with this character; -1 if there is none. at: behind it. */
static long number(const char **at, char last)
{
    size_t digits = strspn(*at, "0123456789");
    long result = strtol(*at, NULL, 10);
    bool sound = digits > 0 && digits < 10 && (*at)[digits] == last;
    *at += digits + sound;
    return sound ? result : -1;
}

/* Prints the agent's answer; its exit code. */
static int ask(void)
{
    static char reply[MAX_REPLY + 1]; /* a zero stays behind it */
    const char *path = socket_path(), *problem;
    size_t size;
    int netns = open_netns(&problem);
    char *data = request(problem, &size);
    if (!data)
        FAIL(unreachable(), "free some", "no memory for a request to the agent");
    int agent = reach(path);
    if (!send_all(agent, data, size, netns) || !receive(agent, reply, &size)) {
        if (errno == ETIMEDOUT)
            FAIL(unreachable(), SEE_LOG, "the agent at ", path, " gave no answer in time");
        FAIL(unreachable(), SEE_LOG, "the agent at ", path, " broke off: ", strerror(errno));
    }
    const char *at = reply;
    long code = number(&at, ' '), length = number(&at, '\n');
    if (code < 0 || length != reply + size - at)
        FAIL(unreachable(), SEE_LOG, "the agent at ", path, " stopped in the middle of the call");
    fwrite(at, 1, (size_t)length, stdout);
    return (int)code;
}

int main(int argc, char **argv)
{
    int code = 0;
    signal(SIGPIPE, SIG_IGN); /* that nobody reads the answer is an exit code */
    const char *command = variable("CNI_COMMAND");
    if (!*command)
        no_command(argc, argv);
    deadline = now() + timeout();
    read_configuration();
    if (strcmp(command, "VERSION") == 0) {
        print_version();
        printf(", \"supportedVersions\": [\"" VERSIONS("\", \"") "\"]}");
    } else {
        code = ask();
    }
    return fflush(stdout) == 0 && !ferror(stdout) ? code : 1;
}
