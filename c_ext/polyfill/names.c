/* Names of errors and signals (2.32). Numbers are Linux's own, the same on x86-64 and aarch64. */
#include "polyfill.h"

enum { EFTYPE_ = 134 }; /* Linux 6.15 */

OLD(char *, strerror_l, int, locale_t);
OLD(locale_t, newlocale, int, const char *, locale_t);

static const char *const ERRORS[] = {
	[0] = "0",
	[1] = "EPERM", [2] = "ENOENT", [3] = "ESRCH", [4] = "EINTR", [5] = "EIO", [6] = "ENXIO", [7] = "E2BIG",
	[8] = "ENOEXEC", [9] = "EBADF", [10] = "ECHILD", [11] = "EAGAIN", [12] = "ENOMEM", [13] = "EACCES",
	[14] = "EFAULT", [15] = "ENOTBLK", [16] = "EBUSY", [17] = "EEXIST", [18] = "EXDEV", [19] = "ENODEV",
	[20] = "ENOTDIR", [21] = "EISDIR", [22] = "EINVAL", [23] = "ENFILE", [24] = "EMFILE", [25] = "ENOTTY",
	[26] = "ETXTBSY", [27] = "EFBIG", [28] = "ENOSPC", [29] = "ESPIPE", [30] = "EROFS", [31] = "EMLINK",
	[32] = "EPIPE", [33] = "EDOM", [34] = "ERANGE", [35] = "EDEADLK", [36] = "ENAMETOOLONG", [37] = "ENOLCK",
	[38] = "ENOSYS", [39] = "ENOTEMPTY", [40] = "ELOOP", [42] = "ENOMSG", [43] = "EIDRM", [44] = "ECHRNG",
	[45] = "EL2NSYNC", [46] = "EL3HLT", [47] = "EL3RST", [48] = "ELNRNG", [49] = "EUNATCH", [50] = "ENOCSI",
	[51] = "EL2HLT", [52] = "EBADE", [53] = "EBADR", [54] = "EXFULL", [55] = "ENOANO", [56] = "EBADRQC",
	[57] = "EBADSLT", [59] = "EBFONT", [60] = "ENOSTR", [61] = "ENODATA", [62] = "ETIME", [63] = "ENOSR",
	[64] = "ENONET", [65] = "ENOPKG", [66] = "EREMOTE", [67] = "ENOLINK", [68] = "EADV", [69] = "ESRMNT",
	[70] = "ECOMM", [71] = "EPROTO", [72] = "EMULTIHOP", [73] = "EDOTDOT", [74] = "EBADMSG", [75] = "EOVERFLOW",
	[76] = "ENOTUNIQ", [77] = "EBADFD", [78] = "EREMCHG", [79] = "ELIBACC", [80] = "ELIBBAD", [81] = "ELIBSCN",
	[82] = "ELIBMAX", [83] = "ELIBEXEC", [84] = "EILSEQ", [85] = "ERESTART", [86] = "ESTRPIPE", [87] = "EUSERS",
	[88] = "ENOTSOCK", [89] = "EDESTADDRREQ", [90] = "EMSGSIZE", [91] = "EPROTOTYPE", [92] = "ENOPROTOOPT",
	[93] = "EPROTONOSUPPORT", [94] = "ESOCKTNOSUPPORT", [95] = "EOPNOTSUPP", [96] = "EPFNOSUPPORT",
	[97] = "EAFNOSUPPORT", [98] = "EADDRINUSE", [99] = "EADDRNOTAVAIL", [100] = "ENETDOWN",
	[101] = "ENETUNREACH", [102] = "ENETRESET", [103] = "ECONNABORTED", [104] = "ECONNRESET", [105] = "ENOBUFS",
	[106] = "EISCONN", [107] = "ENOTCONN", [108] = "ESHUTDOWN", [109] = "ETOOMANYREFS", [110] = "ETIMEDOUT",
	[111] = "ECONNREFUSED", [112] = "EHOSTDOWN", [113] = "EHOSTUNREACH", [114] = "EALREADY",
	[115] = "EINPROGRESS", [116] = "ESTALE", [117] = "EUCLEAN", [118] = "ENOTNAM", [119] = "ENAVAIL",
	[120] = "EISNAM", [121] = "EREMOTEIO", [122] = "EDQUOT", [123] = "ENOMEDIUM", [124] = "EMEDIUMTYPE",
	[125] = "ECANCELED", [126] = "ENOKEY", [127] = "EKEYEXPIRED", [128] = "EKEYREVOKED", [129] = "EKEYREJECTED",
	[130] = "EOWNERDEAD", [131] = "ENOTRECOVERABLE", [132] = "ERFKILL", [133] = "EHWPOISON", [EFTYPE_] = "EFTYPE",
};

static const struct {
	const char *name, *text;
} SIGNALS[] = {
	[1] = { "HUP", "Hangup" },
	[2] = { "INT", "Interrupt" },
	[3] = { "QUIT", "Quit" },
	[4] = { "ILL", "Illegal instruction" },
	[5] = { "TRAP", "Trace/breakpoint trap" },
	[6] = { "ABRT", "Aborted" },
	[7] = { "BUS", "Bus error" },
	[8] = { "FPE", "Floating point exception" },
	[9] = { "KILL", "Killed" },
	[10] = { "USR1", "User defined signal 1" },
	[11] = { "SEGV", "Segmentation fault" },
	[12] = { "USR2", "User defined signal 2" },
	[13] = { "PIPE", "Broken pipe" },
	[14] = { "ALRM", "Alarm clock" },
	[15] = { "TERM", "Terminated" },
	[16] = { "STKFLT", "Stack fault" },
	[17] = { "CHLD", "Child exited" },
	[18] = { "CONT", "Continued" },
	[19] = { "STOP", "Stopped (signal)" },
	[20] = { "TSTP", "Stopped" },
	[21] = { "TTIN", "Stopped (tty input)" },
	[22] = { "TTOU", "Stopped (tty output)" },
	[23] = { "URG", "Urgent I/O condition" },
	[24] = { "XCPU", "CPU time limit exceeded" },
	[25] = { "XFSZ", "File size limit exceeded" },
	[26] = { "VTALRM", "Virtual timer expired" },
	[27] = { "PROF", "Profiling timer expired" },
	[28] = { "WINCH", "Window changed" },
	[29] = { "POLL", "I/O possible" },
	[30] = { "PWR", "Power failure" },
	[31] = { "SYS", "Bad system call" },
};

NEW(const char *, strerrorname_np, int number)
{
	if (number < 0 || (size_t)number >= sizeof(ERRORS) / sizeof(*ERRORS))
		return NULL;
	return ERRORS[number];
}

/* Not translated: the image's text for the C locale, which is there without memory being asked for. */
NEW(const char *, strerrordesc_np, int number)
{
	if (!fairlead_new_strerrorname_np(number))
		return NULL;
	if (number == EFTYPE_)
		return "Inappropriate file type or format";
	return fairlead_old_strerror_l(number, fairlead_old_newlocale(LC_ALL_MASK, "C", (locale_t)0));
}

NEW(const char *, sigabbrev_np, int number)
{
	if (number < 0 || (size_t)number >= sizeof(SIGNALS) / sizeof(*SIGNALS))
		return NULL;
	return SIGNALS[number].name;
}

NEW(const char *, sigdescr_np, int number)
{
	if (number < 0 || (size_t)number >= sizeof(SIGNALS) / sizeof(*SIGNALS))
		return NULL;
	return SIGNALS[number].text;
}
