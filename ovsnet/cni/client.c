/* The executable /opt/cni/bin/ovsnet in C: passes a CNI call to the agent and prints its answer.

   The same program as client.py, which says what it owns, what it never does and which variables it knows; that one
   is installed where no C compiler is. The tests run against both; `executable` compiles it. A timer keeps the
   deadline: from then on every call that blocks ends with EINTR. What goes wrong ends in fail(). */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/ovsnet/agent.sock"
#define DEFAULT_TIMEOUT "60"
#define NEWEST_VERSION "1.1.0"
#define VERSIONS(between) "0.3.1" between "0.4.0" between "1.0.0" between NEWEST_VERSION
#define SPACE " \t\r\n"
enum { UNREACHABLE = 11, HEADER = 32, MAX_REQUEST = 1 << 20, MAX_REPLY = 4 << 20 };

static const char usage[] =
    "ovsnet: a CNI plugin, called by container runtimes; it passes the call to ovsnet's agent on this node.\n"
    "Set CNI_COMMAND (ADD, DEL, CHECK, GC, STATUS, VERSION) and the other CNI_* variables, and send the network\n"
    "configuration on standard input. `ovsnet show` tells what is attached.\n";
static const char no_answer[] = "it gave no answer in time"; /* liveness probes look for it */
static char configuration[MAX_REQUEST + 2]; /* what came on standard input, and a zero */
static size_t configuration_size;
static char request[HEADER + MAX_REQUEST], *request_end = request + HEADER;
static char reply[MAX_REPLY + 1];

static const char *variable(const char *name, const char *otherwise)
{
    const char *text = getenv(name);
    return text && *text ? text : otherwise;
}

/* The string of this key, in quotes, where it first stands: up to its quote, and as it stands there. */
static const char *look_up(const char *key, const char *otherwise)
{
    const char *at = strstr(configuration, key);
    at = at ? at + strlen(key) : "";
    at += strspn(at, SPACE);
    at += *at == ':' ? 1 + strspn(at + 1, SPACE) : strlen(at);
    return *at == '"' && at[1] && at[1] != '"' ? at + 1 : otherwise;
}

/* Text inside of a JSON string. Paths and variables are any bytes: what is not printable ASCII becomes \xNN. */
static void print_escaped(const char *text, char stop)
{
    for (; *text && *text != stop; text++)
        printf(*text < ' ' || *text > '~' ? "\\\\x%02x" : *text == '"' || *text == '\\' ? "\\%c" : "%c",
               (unsigned char)*text);
}

static void print_version(void)
{
    printf("{\"cniVersion\": \"");
    print_escaped(look_up("\"cniVersion\"", NEWEST_VERSION), '"');
}

/* A CNI error (specification 1.1, section "Error"); the message is the parts in a row. */
#define FAIL(code, hint, ...) fail(code, hint, (const char *const[]){__VA_ARGS__, NULL})

static _Noreturn void fail(int code, const char *hint, const char *const *message)
{
    signal(SIGALRM, SIG_IGN); /* what is printed is printed whole */
    if (code == UNREACHABLE && strcmp(variable("CNI_COMMAND", ""), "STATUS") == 0)
        code = 50;
    print_version();
    printf("\", \"code\": %d, \"msg\": \"", code);
    for (; *message; message++)
        print_escaped(*message, '\0');
    printf("\", \"details\": \"%s\"}", hint);
    exit(1);
}

static const char *why(const char *late) { return errno == EINTR ? late : strerror(errno); }
static void on_alarm(int number) { (void)number; }

/* So far from now as OVSNET_TIMEOUT says. strtod alone would also take hexadecimal numbers and words. */
static void set_deadline(void)
{
    const char *text = variable("OVSNET_TIMEOUT", DEFAULT_TIMEOUT);
    char *end;
    double seconds = strtod(text, &end);
    if (text[strspn(text, "0123456789.eE+-" SPACE)] || end[strspn(end, SPACE)] || !(seconds > 0 && seconds <= 86400))
        FAIL(4, "more than 0, at most 86400, or leave it unset",
             "OVSNET_TIMEOUT: '", text, "' is no number of seconds");
    struct sigaction action = {.sa_handler = on_alarm}; /* without SA_RESTART */
    sigaction(SIGALRM, &action, NULL);
    sigprocmask(SIG_SETMASK, &action.sa_mask, NULL); /* the runtime may have blocked it */
    long long left = (long long)(seconds * 1e6) + 1;
    struct itimerval timer = {{0, 10000}, {left / 1000000, left % 1000000}};
    setitimer(ITIMER_REAL, &timer, NULL); /* and every 10 ms from then on: it may come just before a call */
}

static void read_configuration(void)
{
    ssize_t count;
    while ((count = read(STDIN_FILENO, configuration + configuration_size, MAX_REQUEST + 1 - configuration_size)) > 0)
        configuration_size += (size_t)count;
    if (count < 0)
        FAIL(5, "the runtime writes the configuration there and closes it", "stdin: ", why("it has no end"));
}

static void append(const char *data, size_t size)
{
    if (size > (size_t)(request + sizeof request - request_end))
        FAIL(7, "is the right file on stdin?", "variables and a network configuration of more than 1 MiB");
    request_end = mempcpy(request_end, data, size);
}

/* As framing.py describes it, in one piece: the agent is woken once. problem: with CNI_NETNS, or NULL. */
static char *make_request(const char *problem)
{
    char header[HEADER];
    for (char **entry = environ; *entry; entry++)
        if (strncmp(*entry, "CNI_", 4) == 0)
            append(*entry, strlen(*entry) + 1);
    if (problem) {
        append("OVSNET_NETNS_ERROR=", 19);
        append(problem, strlen(problem) + 1);
    }
    append("", 1);
    append(configuration, configuration_size);
    size_t size = (size_t)sprintf(header, "OVSNET1 %td\n", request_end - request - HEADER);
    return memcpy(request + HEADER - size, header, size);
}

/* As send(); the bytes carry the descriptor if it is one. */
static ssize_t send_with(int descriptor, int agent, char *data, size_t size)
{
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } rights = {
        .header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec part = {data, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &rights};
    message.msg_controllen = descriptor >= 0 ? sizeof rights : 0;
    memcpy(CMSG_DATA(&rights.header), &descriptor, sizeof descriptor);
    return sendmsg(agent, &message, 0);
}

/* Prints the answer of the agent at this path; its exit code. */
static int ask(const char *path)
{
    const char *netns_path = variable("CNI_NETNS", "");
    int netns = open(netns_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold this up */
    char *at = make_request(*netns_path && netns < 0 ? strerror(errno) : NULL), header[HEADER];
    size_t size = 0;
    ssize_t count = 0;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fits = strlen(path) < sizeof address.sun_path;
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (!fits || connect(agent, (struct sockaddr *)&address, sizeof address) < 0)
        FAIL(UNREACHABLE, "start ovsnet's agent; OVSNET_SOCKET or the key agentSocket name another socket",
             "no agent answers at ", path, ": ", fits ? why(no_answer) : "AF_UNIX path too long");
    for (; at < request_end && (count = send_with(netns, agent, at, (size_t)(request_end - at))) >= 0; netns = -1)
        at += count;
    shutdown(agent, SHUT_WR);
    while (count >= 0 && (count = recv(agent, reply + size, MAX_REPLY - size, 0)) > 0)
        size += (size_t)count;
    if (count < 0)
        FAIL(UNREACHABLE, "see the agent's log", "the agent at ", path, ": ", why(no_answer));
    unsigned char code = (unsigned char)strtoul(reply, NULL, 10);
    const char *answer = reply + strcspn(reply, "\n") + 1;
    sprintf(header, "%u %td\n", code, reply + size - answer); /* how it begins if it is whole */
    if (strncmp(reply, header, strlen(header)) != 0)
        FAIL(UNREACHABLE, "see the agent's log", "the agent at ", path, " stopped in the middle of the call");
    signal(SIGALRM, SIG_IGN);
    fwrite(answer, 1, (size_t)(reply + size - answer), stdout);
    return code;
}

int main(int argc, char **argv)
{
    static char path[sizeof configuration];
    const char *command = variable("CNI_COMMAND", NULL), *found;
    int code = 0;
    signal(SIGPIPE, SIG_IGN); /* that nobody reads the answer is an exit code */
    if (!command) {
        fprintf(stderr, "%sovsnet CNI plugin, specification versions " VERSIONS(", ") "\n",
                argc > 1 && strcmp(argv[1], "--version") == 0 ? "" : usage);
        FAIL(4, "one of ADD, DEL, CHECK, GC, STATUS, VERSION", "CNI_COMMAND: missing");
    }
    set_deadline();
    read_configuration();
    if (strcmp(command, "VERSION") == 0) {
        print_version();
        printf("\", \"supportedVersions\": [\"" VERSIONS("\", \"") "\"]}");
    } else {
        found = look_up("\"agentSocket\"", DEFAULT_SOCKET);
        memcpy(path, found, strcspn(found, "\""));
        code = ask(variable("OVSNET_SOCKET", path));
    }
    return fflush(stdout) == 0 && !ferror(stdout) ? code : 1;
}
