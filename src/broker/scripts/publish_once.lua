-- Publishes without a history, once per idempotency key.
-- KEYS  1 result
-- ARGV  1 data, 2 PUBLISH or SPUBLISH, 3 name of the messages, 4 life of the result in ms
-- Returns "" or "known".
if redis.call('EXISTS', KEYS[1]) == 1 then
    return 'known'
end
redis.call(ARGV[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], 'e', '', 's', '0')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return ''
