/* The names of functions that glibc 2.34 moved from libpthread to libc, for the linker only: what is
 * linked against this needs them of libc.so.6, in the version that both have. No line of it runs. */
void pthread_atfork(void);
void pthread_mutex_init(void);
void pthread_mutex_lock(void);
void pthread_mutex_unlock(void);
void pthread_once(void);
void pthread_rwlock_init(void);
void pthread_rwlock_rdlock(void);
void pthread_rwlock_unlock(void);
void pthread_rwlock_wrlock(void);

void pthread_atfork(void) {}
void pthread_mutex_init(void) {}
void pthread_mutex_lock(void) {}
void pthread_mutex_unlock(void) {}
void pthread_once(void) {}
void pthread_rwlock_init(void) {}
void pthread_rwlock_rdlock(void) {}
void pthread_rwlock_unlock(void) {}
void pthread_rwlock_wrlock(void) {}
