-- Publishes into several histories, or into one several times, in this order: each as publish.lua
-- does without a key, a version, an earlier attempt or the previous publication. One that fails
-- keeps no other back.
-- KEYS  of each 1 stream, 2 meta
-- ARGV  1 PUBLISH or SPUBLISH; of each 1 data, 2 entries to keep, 3 and 4 lives of stream and meta
--       in ms (0: for ever), 5 whether both begin anew, 6 epoch if there is none, 7 name of the
--       messages, 8 mark
-- Returns of each offset, epoch, "", or its error.
local call, send = redis.call, ARGV[1]

local function publish(stream, meta, at)
    local data, size, renew = ARGV[at], ARGV[at + 1], ARGV[at + 4] == '1'
    local epoch = call('HGET', meta, 'e')
    local begun = not epoch
    -- The first that writes fails where nothing may be written.
    if begun then
        epoch = ARGV[at + 5]
        local set = redis.pcall('HSET', meta, 'e', epoch)
        if type(set) == 'table' and set.err then
            return set
        end
    end
    local top = redis.pcall('HINCRBY', meta, 's', 1)
    if type(top) == 'table' and top.err then
        return top
    end
    top = string.format('%.0f', top)
    if top == '1' then
        call('DEL', stream)
    end
    local id, mark = top .. '-0', ARGV[at + 7]
    local goes_on = not begun and call(
        'XADD', stream, 'NOMKSTREAM', 'MAXLEN', size, id, 'd', data, 'm', mark)
    if not goes_on then
        call('XADD', stream, 'MAXLEN', size, id, 'd', data, 'm', mark)
    end
    if ARGV[at + 2] ~= '0' and (renew or not goes_on) then
        call('PEXPIRE', stream, ARGV[at + 2])
    end
    if ARGV[at + 3] ~= '0' and (renew or begun) then
        call('PEXPIRE', meta, ARGV[at + 3])
    end
    call(send, ARGV[at + 6], '__p1:' .. top .. ':' .. epoch .. '__' .. data)
    return {top, epoch, ''}
end

local results = {}
for n = 1, #KEYS / 2 do
    local done, result = pcall(publish, KEYS[2 * n - 1], KEYS[2 * n], 8 * n - 6)
    if not done then
        -- Servers before 7.0 have a text here.
        result = {err = type(result) == 'table' and result.err or 'ERR ' .. tostring(result)}
    end
    results[n] = result
end
return results
