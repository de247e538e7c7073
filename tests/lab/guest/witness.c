/*
 * Copyright: (c) 2026, The kvmops.migration authors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The witness of a lab guest: one numbered, checksummed record after the other, and loads on demand.
 *
 * A record's number goes to the serial console only after its fsync has succeeded. Whoever compares console and disk
 * can thus tell a reboot (another boot id), a second running copy (a number printed twice), a lost write (printed, but
 * not on the disk) and a torn write (the checksum is wrong) from outside, without trusting this guest's memory.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define DATA "/data"
#define RECORDS DATA "/records"
#define LOAD DATA "/load"
#define RECORD 64
#define CHECKED 54 /* bytes of a record before the blank and the checksum */
#define BLOCK 65536
#define PAGE 4096
#define MIB 1048576ULL
#define SECOND 1000000000ULL
#define LOAD_MIB 64    /* the write load rewrites a file of this size */
#define SPARE_MIB 24   /* memory that a working set must leave to everything else */
#define HARD_SHARE 70  /* percent of the CPU that a hard load takes */
#define MAX_RATE 65536 /* MiB/s; a typing error, not a load, lies beyond */

static char name[64] = "guest", boot_id[40], boot_hex[33];
static int console = -1, records = -1;
static uint64_t next_number = 1, interval_ns = SECOND / 10;
static atomic_ullong errors, dirtied_pages, written_blocks;
static pthread_mutex_t console_lock = PTHREAD_MUTEX_INITIALIZER, record_lock = PTHREAD_MUTEX_INITIALIZER;

struct load {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t rate, set; /* MiB/s, MiB */
    bool hard;          /* its rate takes most of the CPU: a guest that is slowed down falls behind it */
};
static struct load dirty = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 64, false};
static struct load writing = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, LOAD_MIB, false};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void sleep_until(uint64_t when)
{
    struct timespec t = {when / SECOND, when % SECOND};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

/* Every line in one piece: the outside parses them, and several threads speak. */
static void say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = snprintf(line, sizeof line, "kvmops: ");
    length += vsnprintf(line + length, sizeof line - length - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    pthread_mutex_lock(&console_lock);
    for (int done = 0; done < length;) {
        ssize_t sent = write(console, line + done, length - done);
        if (sent < 0 && errno != EINTR && errno != EAGAIN)
            break; /* nobody can be told that nobody can be told */
        done += sent > 0 ? sent : 0;
    }
    pthread_mutex_unlock(&console_lock);
}

static void trouble(const char *what, uint64_t number)
{
    static atomic_ullong last;
    int reason = errno;
    uint64_t now = now_ns(), before = atomic_load(&last);
    atomic_fetch_add(&errors, 1);
    /* A dead disk fails ten times a second: one line a second says as much. */
    if ((before == 0 || now - before >= SECOND) && atomic_compare_exchange_strong(&last, &before, now))
        say("error %s at %llu: %s", what, (unsigned long long)number, strerror(reason));
}

/* The CRC-32 of zlib, so that the outside needs no code of its own for it. */
static uint32_t crc32(const char *data, size_t length)
{
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++)
                c = c & 1 ? 0xEDB88320U ^ (c >> 1) : c >> 1;
            table[i] = c;
        }
    uint32_t crc = ~0U;
    while (length--)
        crc = table[(crc ^ (uint8_t)*data++) & 255] ^ (crc >> 8);
    return ~crc;
}

static uint32_t make_record(char *record, uint64_t number)
{
    char text[RECORD + 32];
    snprintf(text, sizeof text, "%010llu %s %010llu", (unsigned long long)number, boot_hex,
             (unsigned long long)(now_ns() / 1000000));
    uint32_t crc = crc32(text, CHECKED);
    snprintf(text + CHECKED, sizeof text - CHECKED, " %08x\n", crc);
    memcpy(record, text, RECORD);
    return crc;
}

static bool good_record(const char *record, uint64_t number)
{
    char crc[16];
    snprintf(crc, sizeof crc, " %08x\n", crc32(record, CHECKED));
    return memcmp(record + CHECKED, crc, RECORD - CHECKED) == 0 && strtoull(record, NULL, 10) == number;
}

/* Reads the whole record file from the disk itself; counts good and bad slots. False: it could not be read. */
static bool examine(uint64_t *good, uint64_t *bad, uint64_t *last, uint64_t *first_bad)
{
    static char block[BLOCK] __attribute__((aligned(PAGE)));
    uint64_t slot = 0;
    *good = *bad = *last = *first_bad = 0;
    int file = open(RECORDS, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (file < 0)
        return false;
    for (;;) {
        /* Always from a block's beginning: O_DIRECT wants aligned offsets, and only the last block is short. */
        ssize_t got = pread(file, block, BLOCK, slot * RECORD);
        if (got < 0) {
            int reason = errno;
            close(file);
            errno = reason;
            return false;
        }
        for (ssize_t at = 0; at < got; at += RECORD) {
            slot++;
            if (at + RECORD <= got && good_record(block + at, slot)) {
                ++*good;
                *last = slot;
            } else if (!(*bad)++)
                *first_bad = slot;
        }
        if (got < BLOCK)
            break;
    }
    close(file);
    return true;
}

static void *record_forever(void *unused)
{
    (void)unused;
    char record[RECORD];
    uint64_t due = now_ns();
    for (;;) {
        pthread_mutex_lock(&record_lock);
        uint32_t crc = make_record(record, next_number);
        ssize_t wrote = pwrite(records, record, RECORD, (next_number - 1) * RECORD);
        if (wrote != RECORD) {
            if (wrote >= 0)
                errno = EIO;
            trouble("write of record", next_number);
        } else if (fsync(records))
            /* The same number is written again at the same place: only a later success counts for it. */
            trouble("fsync of record", next_number);
        else {
            say("record %.8s %010llu %08x", boot_hex, (unsigned long long)next_number, crc);
            next_number++;
        }
        pthread_mutex_unlock(&record_lock);
        due += interval_ns;
        uint64_t now = now_ns();
        if (now > due)
            due = now;
        sleep_until(due);
    }
    return NULL;
}

/* Takes over the load's settings; true when they are new. */
static bool settings(struct load *load, uint64_t *rate, uint64_t *set)
{
    pthread_mutex_lock(&load->lock);
    bool fresh = *rate != load->rate || *set != load->set;
    *rate = load->rate;
    *set = load->set;
    pthread_mutex_unlock(&load->lock);
    return fresh;
}

/* Waits while the load is off. */
static void wait_for_work(struct load *load)
{
    pthread_mutex_lock(&load->lock);
    while (!load->rate)
        pthread_cond_wait(&load->changed, &load->lock);
    pthread_mutex_unlock(&load->lock);
}

/* How many of `unit`s per second are due now; a backlog of over 200 ms is forgotten, not made good by a burst. */
static uint64_t due_units(uint64_t *start, uint64_t done, uint64_t per_second)
{
    uint64_t now = now_ns(), due = (uint64_t)((unsigned __int128)(now - *start) * per_second / SECOND);
    uint64_t backlog = due > done ? due - done : 0, most = per_second / 5 + 1;
    if (backlog > most) {
        *start += (uint64_t)((unsigned __int128)(backlog - most) * SECOND / per_second);
        backlog = most;
    }
    return backlog;
}

static void toil(uint64_t turns)
{
    for (volatile uint64_t turn = 0; turn < turns; turn++)
        ;
}

/* How many turns of toil() take so many nanoseconds here, on a guest that is not slowed down yet. */
static uint64_t turns_in(uint64_t nanoseconds)
{
    const uint64_t sample = 1 << 20;
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        uint64_t start = now_ns();
        toil(sample);
        uint64_t took = now_ns() - start;
        best = took < best ? took : best;
    }
    return (unsigned __int128)sample * nanoseconds / (best ? best : 1);
}

static void *dirty_forever(void *unused)
{
    (void)unused;
    uint64_t rate = 0, set = 0, turns = 0, pages = 0, at = 0, pass = 0, start = 0, done = 0, value = 0;
    char *memory = NULL;
    for (;;) {
        if (settings(&dirty, &rate, &set)) {
            if (memory && (!rate || pages != set * MIB / PAGE)) {
                munmap(memory, pages * PAGE);
                memory = NULL;
            }
            if (!rate) {
                wait_for_work(&dirty);
                continue;
            }
            if (!memory) {
                pages = set * MIB / PAGE;
                at = 0;
                memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (memory == MAP_FAILED) {
                    memory = NULL;
                    trouble("memory of MiB", set);
                    pthread_mutex_lock(&dirty.lock);
                    dirty.rate = 0;
                    pthread_mutex_unlock(&dirty.lock);
                    continue;
                }
            }
            turns = dirty.hard ? turns_in(SECOND / 100 * HARD_SHARE / (rate * MIB / PAGE)) : 0;
            start = now_ns();
            done = 0;
        }
        uint64_t now = due_units(&start, done, rate * MIB / PAGE);
        for (uint64_t i = 0; i < now; i++) {
            toil(turns);
            /* Another word of the page each time round, never the same value: no page is zero, none repeats. */
            value += 0x9E3779B97F4A7C15ULL;
            ((volatile uint64_t *)(memory + at * PAGE))[pass % (PAGE / 8)] = value | 1;
            if (++at == pages) {
                at = 0;
                pass++;
            }
        }
        done += now;
        atomic_fetch_add(&dirtied_pages, now);
        sleep_until(now_ns() + SECOND / 100);
    }
    return NULL;
}

static void *write_forever(void *unused)
{
    (void)unused;
    static char block[BLOCK] __attribute__((aligned(PAGE)));
    uint64_t rate = 0, set = 0, at = 0, start = 0, done = 0, value = 0x2545F4914F6CDD1DULL;
    int file = -1;
    for (size_t i = 0; i < BLOCK / 8; i++) {
        value ^= value << 13, value ^= value >> 7, value ^= value << 17;
        ((uint64_t *)block)[i] = value;
    }
    for (;;) {
        if (settings(&writing, &rate, &set)) {
            if (!rate) {
                if (file >= 0)
                    close(file);
                file = -1;
                wait_for_work(&writing);
                continue;
            }
            start = now_ns();
            done = 0;
        }
        if (file < 0 && (file = open(LOAD, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)) < 0)
            trouble("open of the load file", 0);
        uint64_t now = due_units(&start, done, rate * MIB / BLOCK);
        bool failed = file < 0;
        for (uint64_t i = 0; i < now && !failed; i++) {
            for (size_t page = 0; page < BLOCK; page += PAGE)
                *(uint64_t *)(block + page) = ++value;
            ssize_t wrote = pwrite(file, block, BLOCK, at * BLOCK);
            if (wrote != BLOCK) {
                if (wrote >= 0)
                    errno = ENOSPC;
                trouble("write of load block", at);
                failed = true;
                break;
            }
            at = (at + 1) % (LOAD_MIB * MIB / BLOCK);
        }
        if (!failed && fsync(file)) {
            trouble("fsync of load block", at);
            failed = true;
        }
        done += now;
        if (!failed)
            atomic_fetch_add(&written_blocks, now);
        sleep_until(now_ns() + SECOND / 20);
    }
    return NULL;
}

static void set_load(struct load *load, uint64_t rate, uint64_t set, bool hard)
{
    pthread_mutex_lock(&load->lock);
    load->hard = hard;
    load->rate = rate;
    load->set = set;
    pthread_cond_signal(&load->changed);
    pthread_mutex_unlock(&load->lock);
}

static uint64_t available_mib(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *info = fopen("/proc/meminfo", "r");
    while (info && fgets(line, sizeof line, info))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            break;
    if (info)
        fclose(info);
    return kib / 1024;
}

/* A whole number up to the end of the word; anything else is no number. */
static bool number(const char *text, uint64_t most, uint64_t *value)
{
    char *end;
    errno = 0;
    if (!text || *text < '0' || *text > '9')
        return false;
    *value = strtoull(text, &end, 10);
    return !errno && !*end && *value <= most;
}

static void power_off(void)
{
    set_load(&dirty, 0, dirty.set, false);
    set_load(&writing, 0, LOAD_MIB, false);
    pthread_mutex_lock(&record_lock); /* for good: the last record is a whole one */
    close(records);
    /* The write load closes its file within a burst; the file system then goes down clean. */
    int failed, tries = 0;
    while ((failed = umount(DATA)) && ++tries < 40)
        sleep_until(now_ns() + SECOND / 20);
    if (failed)
        trouble("unmount", next_number);
    sync();
    say("poweroff");
    tcdrain(console);
    reboot(RB_POWER_OFF);
}

static void verify(void)
{
    uint64_t good, bad, last, first_bad;
    pthread_mutex_lock(&record_lock);
    bool readable = examine(&good, &bad, &last, &first_bad);
    uint64_t expected = next_number - 1;
    pthread_mutex_unlock(&record_lock);
    if (!readable)
        trouble("read of the records", 0);
    else if (bad || good != expected)
        say("verify bad %llu of %llu, first %llu", (unsigned long long)(bad ? bad : expected - good),
            (unsigned long long)expected, (unsigned long long)first_bad);
    else
        say("verify ok %llu", (unsigned long long)good);
}

static void status(void)
{
    say("status records=%llu boot=%s uptime_ms=%llu dirty=%llu over=%llu dirtied_mib=%llu write=%llu written_mib=%llu "
        "errors=%llu", (unsigned long long)next_number - 1, boot_id, (unsigned long long)(now_ns() / 1000000),
        (unsigned long long)dirty.rate, (unsigned long long)dirty.set,
        (unsigned long long)(atomic_load(&dirtied_pages) * PAGE / MIB), (unsigned long long)writing.rate,
        (unsigned long long)(atomic_load(&written_blocks) * BLOCK / MIB), (unsigned long long)atomic_load(&errors));
}

static void obey(const char *command)
{
    char copy[256], *word[6] = {NULL}, *rest;
    int words = 0;
    uint64_t rate, set = dirty.set;
    snprintf(copy, sizeof copy, "%s", command);
    for (char *part = strtok_r(copy, " \t", &rest); part && words < 6; part = strtok_r(NULL, " \t", &rest))
        word[words++] = part;
    if (!words)
        return;
    if (!strcmp(word[0], "dirty") && number(word[1], MAX_RATE, &rate) &&
        (words == 2 || ((words == 4 || (words == 5 && !strcmp(word[4], "hard"))) && !strcmp(word[2], "over") &&
                        number(word[3], 1 << 20, &set) && set))) {
        uint64_t room = available_mib() + (dirty.rate ? dirty.set : 0);
        if (rate && set + SPARE_MIB > room) {
            say("refused %s: %llu MiB are available, %d of them must stay free", command, (unsigned long long)room,
                SPARE_MIB);
            return;
        }
        set_load(&dirty, rate, set, words == 5);
    } else if (!strcmp(word[0], "write") && words == 2 && number(word[1], MAX_RATE, &rate))
        set_load(&writing, rate, LOAD_MIB, false);
    else if (!strcmp(word[0], "verify") && words == 1)
        verify();
    else if (!strcmp(word[0], "status") && words == 1)
        status();
    else if (strcmp(word[0], "poweroff") || words != 1) {
        say("refused %s: known are dirty N [over M [hard]], write N, verify, status, poweroff", command);
        return;
    }
    say("ok %s", command);
    if (!strcmp(word[0], "poweroff"))
        power_off();
}

static int open_console(void)
{
    struct termios settings;
    int file = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (file >= 0 && !tcgetattr(file, &settings)) {
        /* Whole lines in, no echo: an echoed command would cut a record line in two. */
        settings.c_lflag = ICANON;
        settings.c_iflag = ICRNL;
        settings.c_oflag = OPOST | ONLCR;
        settings.c_cflag |= CREAD | CLOCAL;
        tcsetattr(file, TCSANOW, &settings);
    }
    return file;
}

static void read_boot_id(void)
{
    int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, boot_id, 36) != 36)
        trouble("read of the boot id", 0);
    close(file);
    for (int from = 0, to = 0; boot_id[from] && to < 32; from++)
        if (boot_id[from] != '-')
            boot_hex[to++] = boot_id[from];
}

static void read_kernel_arguments(char *dirty_command, char *write_command, size_t size)
{
    static char line[4096];
    char *rest;
    uint64_t value;
    int file = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, line, sizeof line - 1);
    close(file);
    if (length < 0) {
        trouble("read of the kernel arguments", 0);
        return;
    }
    for (char *word = strtok_r(line, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
        if (!strncmp(word, "kvmops.name=", 12))
            snprintf(name, sizeof name, "%s", word + 12);
        else if (!strncmp(word, "kvmops.interval=", 16) && number(word + 16, 3600000, &value) && value)
            interval_ns = value * (SECOND / 1000);
        else if (!strncmp(word, "kvmops.dirty=", 13))
            snprintf(dirty_command, size, "dirty %.32s", word + 13);
        else if (!strncmp(word, "kvmops.write=", 13))
            snprintf(write_command, size, "write %.32s", word + 13);
    }
}

/* The ACPI power button speaks through an input device; several may exist. */
static int open_buttons(struct pollfd *polls, int most)
{
    int found = 0;
    DIR *folder = opendir("/dev/input");
    for (struct dirent *entry; folder && found < most && (entry = readdir(folder));)
        if (!strncmp(entry->d_name, "event", 5)) {
            int file = openat(dirfd(folder), entry->d_name, O_RDONLY | O_CLOEXEC);
            if (file >= 0)
                polls[found++] = (struct pollfd){.fd = file, .events = POLLIN};
        }
    if (folder)
        closedir(folder);
    return found;
}

static void listen_forever(void)
{
    char line[256];
    struct input_event event;
    struct pollfd polls[8] = {{.fd = console, .events = POLLIN}};
    int count = 1 + open_buttons(polls + 1, 7);
    for (;;) {
        if (poll(polls, count, -1) < 0)
            continue;
        if (polls[0].revents & POLLIN) {
            ssize_t got = read(console, line, sizeof line - 1);
            if (got > 0) {
                line[got] = 0;
                line[strcspn(line, "\r\n")] = 0;
                obey(line);
            }
        } else if (polls[0].revents)
            sleep_until(now_ns() + SECOND / 10);
        for (int i = 1; i < count; i++)
            if (polls[i].revents & POLLIN && read(polls[i].fd, &event, sizeof event) == sizeof event &&
                event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
                say("power button");
                power_off();
            }
    }
}

static void start(void *(*work)(void *))
{
    pthread_t thread;
    errno = pthread_create(&thread, NULL, work, NULL);
    if (errno)
        trouble("start of a thread", 0);
}

int main(void)
{
    char dirty_command[64] = "", write_command[64] = "";
    uint64_t good, bad, last, first_bad;
    signal(SIGCHLD, SIG_IGN); /* children of the init script are nobody's business */
    console = open_console();
    read_boot_id();
    read_kernel_arguments(dirty_command, write_command, sizeof dirty_command);
    say("boot %s %s", boot_id, name);
    records = open(RECORDS, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int folder = open(DATA, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (records < 0 || folder < 0 || fsync(folder))
        trouble("open of the records", 0);
    close(folder);
    if (examine(&good, &bad, &last, &first_bad)) {
        say("found %llu records, last %llu, %llu bad", (unsigned long long)good, (unsigned long long)last,
            (unsigned long long)bad);
        next_number = last + 1;
        start(record_forever);
    } else
        /* Numbering from one over records that could not be read would destroy the evidence. */
        trouble("read of the records", 0);
    start(dirty_forever);
    start(write_forever);
    obey(dirty_command);
    obey(write_command);
    listen_forever();
}
